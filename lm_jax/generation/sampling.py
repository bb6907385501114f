"""How a token is drawn from its logits.

Axes: b sequences, n tokens of a row, v vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """How a token is drawn from its logits; everything applies in this order."""

    repetition_penalty: float = 1.0  # 1: off; above: tokens that a text has are less probable
    temperature: float = 1.0  # 0: greedy, which no filter changes
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off


def penalize(logits: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Logits [..., V] where those of `seen` tokens (bool [..., V]) are divided by the penalty.

    Negative ones are multiplied, so that both become smaller (Keskar et al. 2019, section 4.1, as
    Hugging Face has it).
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def filter_top_k(logits: jax.Array, k: int) -> jax.Array:
    """Logits [..., V] with all but the k largest at -inf; ties with the k-th are kept."""
    if k >= logits.shape[-1]:
        return logits
    threshold = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < threshold, -jnp.inf, logits)


def filter_top_p(logits: jax.Array, p: float) -> jax.Array:
    """Logits [..., V] of the smallest set of most probable tokens with at least p of the mass.

    The token that crosses p is kept, so at least one is (Holtzman et al. 2020, section 3.1).
    """
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ordered = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(ordered, axis=-1) - ordered
    rank = jnp.argsort(order, axis=-1)
    keep = jnp.take_along_axis(before < p, rank, axis=-1) | (rank == 0)
    return jnp.where(keep, logits, -jnp.inf)


def filter_min_p(logits: jax.Array, p: float) -> jax.Array:
    """Logits [..., V] of the tokens at least p times as probable as the most probable.

    Nguyen et al. 2024, section 3.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    return jnp.where(
        probabilities < p * probabilities.max(axis=-1, keepdims=True), -jnp.inf, logits
    )


def process(logits: jax.Array, sampling: Sampling, seen: jax.Array | None = None) -> jax.Array:
    """Logits [..., V] as tokens are drawn from them; greedy choice takes their largest.

    Args:
      seen: bool [..., V], the tokens that each text has; needed for a repetition penalty only.
    """
    if sampling.repetition_penalty != 1:
        assert seen is not None
        logits = penalize(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits
    logits = logits / sampling.temperature
    if sampling.top_k:
        logits = filter_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = filter_top_p(logits, sampling.top_p)
    if sampling.min_p:
        logits = filter_min_p(logits, sampling.min_p)
    return logits


def sample(
    keys: jax.Array, logits: jax.Array, sampling: Sampling, seen: jax.Array | None = None
) -> jax.Array:
    """One token for each row of logits [B, V], int32 [B], each drawn with its own of keys [B]."""
    logits = process(logits, sampling, seen)
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def tokens_seen(tokens: jax.Array, count: jax.Array, vocab_size: int) -> jax.Array:
    """Which tokens stand among the first `count` of each row of tokens [B, N], bool [B, V]."""
    batch_size, width = tokens.shape
    read = jnp.where(jnp.arange(width) < count, tokens, vocab_size)  # the rest falls off the edge
    nothing = jnp.zeros((batch_size, vocab_size), bool)
    return nothing.at[jnp.arange(batch_size)[:, None], read].set(True, mode="drop")
