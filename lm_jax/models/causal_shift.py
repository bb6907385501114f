"""Activations of earlier tokens of the same document, for models with a bounded window."""

import jax
import jax.numpy as jnp

from lm_jax.models.interface import Batch


def positions_of(batch: Batch) -> jax.Array:
    """Returns the number of earlier tokens of each token's document in its row, int32 [b, t]."""
    inputs_bt = batch["inputs"]
    index_bt = jnp.broadcast_to(jnp.arange(inputs_bt.shape[1]), inputs_bt.shape)
    return batch.get("positions", index_bt)


def lagged(x_btd: jax.Array, lag: int, positions_bt: jax.Array) -> jax.Array:
    """Returns x_btd from `lag` tokens earlier; zeros before the start of the document."""
    if lag == 0:
        return x_btd
    time = x_btd.shape[1]
    before_btd = jnp.pad(x_btd, ((0, 0), (lag, 0), (0, 0)))[:, :time]
    return jnp.where((positions_bt >= lag)[..., None], before_btd, 0)
