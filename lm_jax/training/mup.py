"""The maximal update parametrisation (muP): the best learning rate is the same at every width.

Yang et al. 2022, "Tensor Programs V", Table 3, relative to a base model of the same proportions: at
its width muP and the standard parametrisation agree. A parameter's growth is the ratio of its
fan-in, or its fan-out, to the base model's. Factors on the base model's values:

  parameters                        initial size     rate of SGD              of Adam, AdamW, Lion
  grow on both sides: hidden        growth_in^-1/2   growth_out / growth_in   1 / growth_in
  only fan-in: output               1 / growth_in    1 / growth_in            1 / growth_in
  only fan-out: input, tables,      1                growth_out               1
  biases, norms

Parameters declare their fan-in where they are created (`lm_jax.models.parameters`). Adafactor's
updates are as large as Adam's. Muon's matrices get updates whose spectral norm is proportional to
sqrt(fan_out / fan_in) (Yang et al. 2023, "A Spectral Condition for Feature Learning", condition 1),
which optax's already have where both sides grow; its other parameters follow Adam.
Heads keep their width, so 1/sqrt(d_head) is as good as 1/d_head (section 8.1). A table that is also
the output is an input here: its logits are divided by the growth in the forward pass (Table 8).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm_jax.errors import UserError
from lm_jax.models import family_of
from lm_jax.models.interface import Batch, Model, Variables
from lm_jax.models.parameters import declarations, path_of
from lm_jax.models.scale_width import of_width
from lm_jax.parallel import sharding


class FanInOut(NamedTuple):
    """Fan-in and fan-out of a parameter, in the model and in its base model."""

    is_matrix: bool  # Muon orthogonalises it
    base_in: int
    base_out: int
    fan_in: int
    fan_out: int

    @property
    def growth_in(self) -> float:
        return self.fan_in / self.base_in

    @property
    def growth_out(self) -> float:
        return self.fan_out / self.base_out


def configurations(config: Any, base_width: int) -> tuple[Any, Any]:
    """Returns the model's configuration as muP computes it, and its base model's.

    Raises:
      UserError: the model has no widths, no base model of that width, or a tied table whose
        logits cannot be scaled.
    """
    base = of_width(config, base_width)
    family = family_of(config)
    if family.ties_embeddings(config):
        growth = getattr(config, family.widths(config)[0]) / base_width
        config = family.scale_logits(config, 1 / growth)
    return config, base


def fan_in_out(model: Model, base: Model, batch: Mapping[str, Any]) -> Any:
    """Returns a tree of `FanInOut` with the structure of the model's parameters, from shapes alone.

    Raises:
      UserError: a parameter is not declared (`lm_jax.models.parameters`).
    """
    narrow, wide = (declarations(m.init, batch) for m in (base, model))

    def compare(path: Any, _: Any) -> FanInOut:
        here, there = wide[path_of(path)], narrow[path_of(path)]
        return FanInOut(here.is_matrix, there.fan_in, there.fan_out, here.fan_in, here.fan_out)

    shapes = sharding.unboxed(jax.eval_shape(model.init, jax.random.key(0), dict(batch)))
    return jax.tree_util.tree_map_with_path(compare, shapes["params"])


def initial_factor(fans: FanInOut) -> float:
    """Returns the initial size of a parameter over the base model's."""
    grows_out = fans.fan_out != fans.base_out
    return fans.growth_in ** (-0.5 if grows_out else -1.0)


def rate_factor(optimizer: str, fans: FanInOut) -> float:
    """Returns the learning rate of a parameter over the base model's, for an optimizer's name.

    Raises:
      UserError: muP has no rule for the optimizer.
    """
    if optimizer not in _RATE_FACTORS:
        raise UserError(
            f"mup_base_width: no rule scales the rates of optimizer.name {optimizer!r}; expected "
            f"one of {', '.join(_RATE_FACTORS)}, or set mup_base_width to 0"
        )
    return _RATE_FACTORS[optimizer](fans)


def _adam_factor(fans: FanInOut) -> float:
    return 1 / fans.growth_in


def _sgd_factor(fans: FanInOut) -> float:
    return fans.growth_out / fans.growth_in


def _muon_factor(fans: FanInOut) -> float:
    if not fans.is_matrix:
        return _adam_factor(fans)
    pairs = ((fans.base_in, fans.base_out), (fans.fan_in, fans.fan_out))
    base, here = (max(1.0, o / i) for i, o in pairs)  # squares of optax's factors
    return math.sqrt(fans.growth_out / fans.growth_in * base / here)


_RATE_FACTORS: dict[str, Callable[[FanInOut], float]] = {
    "adamw": _adam_factor,
    "adam": _adam_factor,
    "sgd": _sgd_factor,
    "adafactor": _adam_factor,
    "lion": _adam_factor,
    "muon": _muon_factor,
}


def with_initial_sizes(model: Model, base: Model, fans: Any) -> Model:
    """Returns the model with an `init` that draws as before, then scales each parameter.

    The root mean square becomes `initial_factor` times the base model's, drawn with the same key;
    zeros stay zero.
    """

    def init(key: jax.Array, batch: Batch) -> Variables:
        variables = model.init(key, batch)
        drawn, structure = jax.tree.flatten(variables["params"])  # in their boxes
        narrow = jax.tree.leaves(base.init(key, batch)["params"])
        factors = jax.tree.leaves(_map(initial_factor, fans))
        scaled = [
            x * (factor * _rms(y) / jnp.maximum(_rms(x), jnp.finfo(x.dtype).tiny))
            for x, y, factor in zip(drawn, narrow, factors, strict=True)
        ]
        return {**variables, "params": jax.tree.unflatten(structure, scaled)}

    return model._replace(init=init)


def with_rates(
    optimizer: optax.GradientTransformation, name: str, fans: Any
) -> optax.GradientTransformation:
    """Returns the optimizer of this name with each parameter's rate times its `rate_factor`.

    The product of rate and weight decay does not change with width (as in the `mup` package).
    Gradients are clipped by the norm of g sqrt(growth_out / growth_in), to which each layer
    contributes equally at every width: the plain norm grows with the output weights' gradient.

    Args:
      optimizer: reads parameters only to decay them; its state keeps its structure.
    """
    balance = _map(lambda f: math.sqrt(f.growth_out / f.growth_in), fans)
    rates = _map(lambda f: rate_factor(name, f), fans)
    if name == "sgd":  # the others ignore the scale of a gradient
        rates = jax.tree.map(lambda rate, already: rate / already, rates, balance)

    def update(grads: Any, state: Any, params: Any = None):
        grads = jax.tree.map(jnp.multiply, grads, balance)
        params = jax.tree.map(jnp.divide, params, rates)  # so that decay is not scaled below
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(jnp.multiply, updates, rates), state

    return optax.GradientTransformation(optimizer.init, update)


def _map(function: Callable[[FanInOut], float], fans: Any) -> Any:
    return jax.tree.map(function, fans, is_leaf=lambda x: isinstance(x, FanInOut))


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))
