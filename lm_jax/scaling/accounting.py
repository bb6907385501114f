"""What a model costs, by formula or by shape; nothing is allocated."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.models import build_model, fused_attention
from lm_jax.models.interface import Model
from lm_jax.sharding import unboxed

# Module names in a parameter's path -> the component that it counts towards; the first that
# matches, from the left, decides.
_COMPONENTS = {
    "embedding": "embedding",
    "positions": "positions",
    "relative_bias": "positions",
    "segment_types": "embedding",
    "attention": "attention",
    "feed_forward": "feed_forward",
    "attention_norm": "norm",
    "cross_attention": "cross_attention",
    "cross_attention_norm": "norm",
    "embedding_norm": "norm",
    "feed_forward_norm": "norm",
    "final_norm": "norm",
    "output": "output",
}


def count_parameters(config: Any) -> dict[str, int]:
    """Parameters of a model by component, and their `total`, from shapes alone.

    A tied output is counted once, as `embedding`. Of a model that counts, nothing has been counted.
    Raises ValueError if the model cannot be built.
    """
    model = build_model(config, jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), _example(config))["params"]
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [part.key for part in path if hasattr(part, "key")]
        component = next((_COMPONENTS[name] for name in names if name in _COMPONENTS), names[0])
        counts[component] = counts.get(component, 0) + math.prod(leaf.shape)
    return counts | {"total": sum(counts.values())}


def _example(config: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of one that the model reads."""
    if hasattr(config, "image_height"):
        shape = (1, config.image_height, config.image_width, config.image_channels)
        return {"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}
    tokens = jax.ShapeDtypeStruct((1, getattr(config, "context_length", 1)), jnp.int32)
    batch = {"inputs": tokens, "segments": tokens, "positions": tokens}
    if hasattr(config, "source_length"):
        source = jax.ShapeDtypeStruct((1, config.source_length), jnp.int32)
        batch |= {"source": source, "source_segments": source, "source_positions": source}
    return batch


def training_flops(model: Model, batch: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """FLOPs of one train step on a batch: three times the matrix products of its forward pass.

    The backward pass has two products for each, one for the gradient of either factor. What is
    recomputed to save memory does not count, and of causal attention only what is computed.
    """
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    loss = functools.partial(model.loss, train=True, key=jax.random.key(0))
    return 3 * product_flops(jax.make_jaxpr(loss)(unboxed(variables), batch).jaxpr)


def product_flops(jaxpr: Any) -> int:
    """FLOPs of the matrix products and convolutions of a jaxpr; a multiply-add is 2.

    A loop of unknown length counts once, and of a conditional the dearest branch.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [product_flops(called) for called in _jaxprs(params.values())]
        if name == "dot_general":
            left = equation.invars[0].aval.shape
            (contracted, _), _ = params["dimension_numbers"]
            size = math.prod(equation.outvars[0].aval.shape)
            total += 2 * size * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
        elif name == fused_attention.PRIMITIVE:
            batch, queries, heads, width = equation.invars[0].aval.shape
            pairs = queries * equation.invars[1].aval.shape[1]
            spared = 2 if params["mask_type"].name == "CAUSAL" else 1
            total += 4 * batch * heads * width * pairs // spared
        elif name == "cond":
            total += max(inner)
        elif name == "scan":
            total += params["length"] * sum(inner)
        elif name == "shard_map":  # its shapes are those of one part
            sizes = [params["mesh"].shape[axis] for axis in params["newly_manual_axes"]]
            total += math.prod(sizes) * sum(inner)
        else:
            total += sum(inner)
    return total


def _jaxprs(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _jaxprs(value)
        elif hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)
