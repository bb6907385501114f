"""Parameters and FLOPs of a model, by formula or from shapes; nothing is allocated."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.costs.jaxpr_flops import product_flops
from lm_jax.models import build_model, family_of
from lm_jax.models.interface import Model
from lm_jax.models.parameters import declarations
from lm_jax.objectives import objective_of
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.parallel.sharding import unboxed

Shapes = Mapping[str, jax.ShapeDtypeStruct]

# Logical axis of a parameter -> the component that it counts towards; the first in order decides.
_TABLES = {"vocab": "embedding", "positions": "positions", "types": "segment_types"}  # looked up
_COMPONENTS = {
    "vocab": "output",
    "heads": "attention",
    "kv_heads": "attention",
    "experts": "experts",
    "router": "router",
    "mlp": "hidden",
    "norm": "norm",
}


class Parameters(NamedTuple):
    """The parameters of a model, as scaling laws count them."""

    total: int
    embedding: int  # in tables of which rows are looked up: tokens, positions, segment types
    non_embedding: int  # the rest (Kaplan et al. 2020, section 2.1)


def count_parameters(config: Any) -> dict[str, int]:
    """Returns the parameters of a model by component, and their `total`, from shapes alone.

    Components follow from what each parameter declares; biases of the residual stream and whatever
    has no axis of a component are `other`. A tied output is counted once, as `embedding`. A
    count-based model is measured before it has counted anything.

    Raises:
      UserError: the model cannot be built.
    """
    family = family_of(config)
    model = build_model(family.for_any_device(config), jnp.float32)
    experiment = default_experiment(config)
    example = objective_of(experiment).example(experiment, 1)
    counts: dict[str, int] = {}
    for parameter in declarations(model.init, example).values():
        components = _TABLES if parameter.looked_up else _COMPONENTS
        found = (components[axis] for axis in components if axis in parameter.names)
        component = next(found, "other")
        counts[component] = counts.get(component, 0) + math.prod(parameter.value.shape)
    return counts | {"total": sum(counts.values())}


def embedding_split(counts: Mapping[str, int]) -> Parameters:
    """Splits what `count_parameters` returns into embeddings and the rest.

    A tied table is an embedding; an output table of its own is not.
    """
    embedding = sum(counts.get(name, 0) for name in _TABLES.values())
    return Parameters(counts["total"], embedding, counts["total"] - embedding)


def active_parameters(config: Any, counts: Mapping[str, int]) -> int:
    """Returns the parameters without those of experts that a token does not pass.

    Args:
      counts: what `count_parameters` returns.
    """
    passed, experts = family_of(config).experts(config)
    return counts["total"] - counts.get("experts", 0) * (experts - passed) // experts


def training_flops(
    model: Model, batch: Shapes, differentiated: Callable[[Any], Any] | None = None
) -> int:
    """Returns the FLOPs of the matrix products of one train step on a batch.

    The backward pass has one product for each factor of a forward product that depends on trained
    parameters: two, except for products with the data, such as the pixels that a first layer reads.
    Recomputation that saves memory does not count, nor scores that causal attention skips.

    Args:
      differentiated: (parameters) -> a tree of bools, which of them are trained; None: all.
    """
    variables = _variables(model, batch)
    trained = differentiated or (lambda params: jax.tree.map(lambda _: True, params))
    flags = jax.tree.map(lambda _: False, (variables, dict(batch)))
    flags[0]["params"] = trained(variables["params"])
    loss = functools.partial(model.loss, train=True, key=jax.random.key(0))
    return _product_flops(loss, (variables, dict(batch)), jax.tree.leaves(flags))


def forward_flops(model: Model, batch: Shapes) -> int:
    """Returns the FLOPs of the matrix products of `apply` on a batch: logits of all targets."""
    apply = functools.partial(model.apply, train=False)
    return _product_flops(apply, (_variables(model, batch), dict(batch)))


def decoding_flops(model: Model, batch: Shapes) -> int | None:
    """Returns the FLOPs of the matrix products that generate the last token of a row of the batch.

    Caches are full, and an encoder has read the source before. None: the model does not generate.
    """
    if model.start is None or model.step is None:
        return None
    row = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    variables = _variables(model, row)
    source = {name: row[name] for name in ("source", "source_segments") if name in row}
    start: Callable[..., Any] = model.start
    length = row["inputs"].shape[1]

    def carry(variables: Any, source: Any) -> Any:
        given = {"source": source} if source else {}
        return start(variables, 1, length, **given)

    token = jax.ShapeDtypeStruct((1,), jnp.int32)
    arguments = (variables, jax.eval_shape(carry, variables, source), token)
    return _product_flops(model.step, arguments)


def _product_flops(function: Callable, arguments: Any, flags: Any = None) -> int:
    return product_flops(jax.make_jaxpr(function)(*arguments).jaxpr, flags)


def _variables(model: Model, batch: Shapes) -> dict[str, Any]:
    return dict(unboxed(jax.eval_shape(model.init, jax.random.key(0), dict(batch))))


class Formula(NamedTuple):
    """FLOPs per token by formula: 2 (N + 2 L d T) forward, and three times that in training.

    Kaplan et al. 2020, section 2.1, with all of attention (Chowdhery et al. 2022, appendix B).
    """

    # N: without tables whose rows are only looked up, and experts that a token does not pass
    parameters: int
    attention: int  # L d T, of all layers; 0 where nothing attends

    @property
    def forward(self) -> int:
        """2 N + 4 L d T; also the cost of decoding one token with full caches."""
        return 2 * self.parameters + 4 * self.attention

    @property
    def training(self) -> int:
        """6 N + 12 L d T."""
        return 3 * self.forward


def formula(config: Any) -> Formula | None:
    """Returns the formula of a model that predicts each token from one stack of layers, else None.

    Encoder-decoders, whose parameters read tokens of two texts, and networks of images, whose
    weights are used at many positions, have none. The formula does not halve attention for
    causality. A recurrent model computes less for a batch of more tokens than its vocabulary,
    whose table it then projects.
    """
    family = family_of(config)
    attention = family.attention_per_token(config)
    if attention is None:
        return None
    counts, tied = count_parameters(config), family.ties_embeddings(config)
    only_looked_up = embedding_split(counts).embedding - (counts["embedding"] if tied else 0)
    return Formula(active_parameters(config, counts) - only_looked_up, attention)
