"""What of a block is recomputed in the backward pass, by name."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from lm_jax.models.transformer.flash_attention import PRIMITIVE


def _keeps_products(primitive, *arguments, **params) -> bool:
    """Saves weight products and cuDNN attention residuals, never the scores: a remat policy."""
    keep_dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return primitive.name == PRIMITIVE or keep_dots(primitive, *arguments, **params)


def _recomputed(policy: Callable[..., bool] | None) -> Callable[[Any, bool], Any]:
    # Outside a loop XLA may find what is recomputed among what was computed, and keep it.
    return lambda block, in_loop: nn.remat(block, prevent_cse=not in_loop, policy=policy)


REMAT: dict[str, Callable[[Any, bool], Any]] = {
    "none": lambda block, in_loop: block,
    "dots": _recomputed(_keeps_products),
    "full": _recomputed(None),
}
"""Name -> (class of a block, whether a loop runs it) -> the class that recomputes."""
