"""One vector of a text from those of its tokens, by name. Axes: b batch, t time, d model width."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.transformer.layers import dense

if TYPE_CHECKING:  # the configuration takes its choices from here
    from lm_jax.models.transformer.config import EncoderConfig


def _mean(config: "EncoderConfig", dtype: Any, x_btd: jax.Array, segments_bt: jax.Array):
    is_text_bt1 = (segments_bt > 0)[..., None]
    total_bd = jnp.sum(jnp.where(is_text_bt1, x_btd, 0), axis=1, dtype=jnp.float32)
    return total_bd / jnp.maximum(1, jnp.sum(is_text_bt1, axis=1))


def _first(config: "EncoderConfig", dtype: Any, x_btd: jax.Array, segments_bt: jax.Array):
    """Returns the first token through BERT's pooler, a layer of the module that calls this."""
    pooler = dense(config, dtype, config.d_model, ("embed", "mlp"), "pooler", head=True)
    return nn.tanh(pooler(x_btd[:, 0]))


POOLINGS: dict[str, Callable[["EncoderConfig", Any, jax.Array, jax.Array], jax.Array]] = {
    "mean": _mean,
    "first": _first,
}
"""Name -> (configuration, dtype, x_btd, segments_bt, 0 on padding) -> pooled_bd."""
