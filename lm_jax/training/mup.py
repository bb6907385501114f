"""The maximal update parametrisation (muP): a rate that is best at one width is best at all.

Yang et al. 2022, "Tensor Programs V", Table 3, relative to a base model of the same proportions: at
its width both parametrisations are one. A parameter's growth is its fan-in, or its fan-out, over
that of the same parameter of the base model. Times what the base model has:

  parameters                        initial size     rate of SGD              of Adam, AdamW, Lion
  grow on both sides: hidden        growth_in^-1/2   growth_out / growth_in   1 / growth_in
  only fan-in: output               1 / growth_in    1 / growth_in            1 / growth_in
  only fan-out: input, tables,      1                growth_out               1
  biases, norms

Adafactor's updates are as large as Adam's. Muon's matrices get updates of a spectral norm in
proportion to sqrt(fan_out / fan_in) (Yang et al. 2023, "A Spectral Condition for Feature Learning",
condition 1), which optax's already have where both sides grow; its other parameters follow Adam.
Heads keep their width, so 1/sqrt(d_head) is as good as 1/d_head (section 8.1). A table that is also
the output is an input here: its logits are divided by the growth in the forward pass (Table 8).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm_jax.models.interface import Batch, Model, Variables
from lm_jax.models.scale_width import of_width
from lm_jax.parallel import sharding

# Leaves besides the `kernel`s that are summed over their last axis: tables of logits, [v, d], and
# what turns a hidden layer of attention into a score, [k].
_SUMMED = ("output", "score")


class Fans(NamedTuple):
    """How many inputs a parameter sums over and how many outputs it has, here and in the base."""

    is_matrix: bool  # a `kernel`, as Muon sees it
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
    """The model's configuration as muP computes it, and that of its base model.

    Raises:
      UserError: the model has no widths, or no base model of that width.
    """
    base = of_width(config, base_width)
    if getattr(config, "tie_embeddings", False):
        scale = base.logit_scale * base_width / getattr(config, config.widths()[0])
        config = dataclasses.replace(config, logit_scale=scale)
    return config, base


def fans_of(model: Model, base: Model, batch: Mapping[str, Any]) -> Any:
    """A tree of `Fans` with the structure of the model's parameters, of shapes alone."""

    def shapes(of: Model) -> Any:
        variables = jax.eval_shape(of.init, jax.random.key(0), batch)
        return sharding.unboxed(variables)["params"]

    def compare(path: Any, narrow: jax.ShapeDtypeStruct, wide: jax.ShapeDtypeStruct) -> Fans:
        name = path[-1].key
        return Fans(name == "kernel", *_fans(name, narrow.shape), *_fans(name, wide.shape))

    return jax.tree_util.tree_map_with_path(compare, shapes(base), shapes(model))


def _fans(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    if name == "kernel":  # axes before the last two are a batch of matrices
        return shape[-2], shape[-1]
    return (shape[-1], 1) if name in _SUMMED else (1, shape[-1])


def initial_factor(fans: Fans) -> float:
    """The initial size of a parameter over the base model's."""
    grows_out = fans.fan_out != fans.base_out
    return fans.growth_in ** (-0.5 if grows_out else -1.0)


def rate_factor(optimizer: str, fans: Fans) -> float:
    """The learning rate of a parameter over the base model's, for an optimizer by its name."""
    if optimizer == "sgd":
        return fans.growth_out / fans.growth_in
    if optimizer == "muon" and fans.is_matrix:
        base, here = (max(1.0, o / i) for i, o in (fans[1:3], fans[3:]))  # squares of optax's
        return math.sqrt(fans.growth_out / fans.growth_in * base / here)
    return 1 / fans.growth_in


def with_initial_sizes(model: Model, base: Model, fans: Any) -> Model:
    """The model with an `init` that draws as before, then scales each parameter.

    Its root mean square becomes that of the base model's, drawn with the same key, times
    `initial_factor`; what is zero stays zero.
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
    """The optimizer of this name with the rate of each parameter times its `rate_factor`.

    A rate times a weight decay does not change with width (as in the `mup` package). Gradients are
    clipped by a norm to which each layer adds as much at every width, that of g
    sqrt(growth_out / growth_in): the plain one grows with that of the output weights.

    Args:
      optimizer: reads parameters for nothing but their decay; its state stays what it is.
    """
    balance = _map(lambda f: math.sqrt(f.growth_out / f.growth_in), fans)
    rates = _map(lambda f: rate_factor(name, f), fans)
    if name == "sgd":  # the others make no difference between a gradient and its multiple
        rates = jax.tree.map(lambda rate, already: rate / already, rates, balance)

    def update(grads: Any, state: Any, params: Any = None):
        grads = jax.tree.map(jnp.multiply, grads, balance)
        params = jax.tree.map(jnp.divide, params, rates)  # so that decay is not scaled below
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(jnp.multiply, updates, rates), state

    return optax.GradientTransformation(optimizer.init, update)


def _map(function: Callable[[Fans], float], fans: Any) -> Any:
    return jax.tree.map(function, fans, is_leaf=lambda x: isinstance(x, Fans))


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))
