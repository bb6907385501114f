"""What a model of bounded memory reads: activations of earlier tokens of the same document."""

import jax
import jax.numpy as jnp

from lm_jax.models.interface import Batch


def positions_of(batch: Batch) -> jax.Array:
    """How many tokens of its document stand before each token in its row, int32 [b, t]."""
    inputs_bt = batch["inputs"]
    index_bt = jnp.broadcast_to(jnp.arange(inputs_bt.shape[1]), inputs_bt.shape)
    return batch.get("positions", index_bt)


def lagged(x_btd: jax.Array, lag: int, positions_bt: jax.Array) -> jax.Array:
    """x_btd as it was `lag` tokens before; zeros where the document had not begun."""
    if lag == 0:
        return x_btd
    time = x_btd.shape[1]
    before_btd = jnp.pad(x_btd, ((0, 0), (lag, 0), (0, 0)))[:, :time]
    return jnp.where((positions_bt >= lag)[..., None], before_btd, 0)
