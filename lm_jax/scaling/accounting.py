"""What a model costs, by formula or by shape; nothing is allocated."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.models import build_model

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
