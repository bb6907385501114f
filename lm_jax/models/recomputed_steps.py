"""Decoding for a model that has only `apply`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.models.interface import Model, Variables


class TextSoFar(NamedTuple):
    """All tokens of each sequence, and how many there are."""

    tokens_bt: jax.Array  # int32 [b, max_length]; those not read yet are 0
    length: jax.Array  # int32 scalar


def with_recomputed_steps(model: Model) -> Model:
    """Returns a causal model with `start`, `step`, `read` and `forget` that call its `apply`.

    Each step reads the whole text again. It costs as much as `apply` on `max_length` tokens, so a
    model that generates much should have a `step` of its own, with a cache.
    """

    def start(variables: Variables, batch_size: int, max_length: int) -> TextSoFar:
        return TextSoFar(jnp.zeros((batch_size, max_length), jnp.int32), jnp.int32(0))

    def read(variables: Variables, text: TextSoFar, tokens_bp: jax.Array):
        tokens_bt = jax.lax.dynamic_update_slice(text.tokens_bt, tokens_bp, (0, text.length))
        length = text.length + tokens_bp.shape[1]
        logits_btv, _ = model.apply(variables, {"inputs": tokens_bt}, train=False, key=None)
        last_bv = jax.lax.dynamic_index_in_dim(logits_btv, length - 1, axis=1, keepdims=False)
        return last_bv, TextSoFar(tokens_bt, length)

    def step(variables: Variables, text: TextSoFar, tokens_b: jax.Array):
        return read(variables, text, tokens_b[:, None])

    def forget(text: TextSoFar, count: jax.Array | int):
        return text._replace(length=text.length - count)  # later tokens are not seen

    return model._replace(start=start, step=step, read=read, forget=forget)
