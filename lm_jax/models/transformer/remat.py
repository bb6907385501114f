"""What of a block is recomputed in the backward pass, by name."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from lm_jax.models.transformer.flash_attention import PRIMITIVE, RESIDUALS


def keeps_attention(primitive, *arguments, **params) -> bool:
    """Saves what the backward pass of a fused kernel reads, never the scores: a remat policy."""
    return primitive.name == PRIMITIVE or params.get("name") == RESIDUALS


def keeps_products(primitive, *arguments, **params) -> bool:
    """Saves weight products too: a remat policy."""
    keep_dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    is_attention = keeps_attention(primitive, *arguments, **params)
    return is_attention or keep_dots(primitive, *arguments, **params)


def _recomputed(policy: Callable[..., bool] | None) -> Callable[[Any, bool], Any]:
    # Outside a loop XLA may find what is recomputed among what was computed, and keep it.
    return lambda block, in_loop: nn.remat(block, prevent_cse=not in_loop, policy=policy)


REMAT: dict[str, Callable[[Any, bool], Any]] = {
    "none": lambda block, in_loop: block,
    "dots": _recomputed(keeps_products),
    "attention": _recomputed(keeps_attention),
    "full": _recomputed(None),
}
"""Name -> (class of a block, whether a loop runs it) -> the class that recomputes."""
