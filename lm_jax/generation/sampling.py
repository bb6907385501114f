"""Draws tokens from logits.

Axes: b sequences, n tokens of a row, v vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """How a token is drawn from its logits; the fields apply in this order.

    `lm_jax.config.experiment.SamplesConfig` documents them. All are off by default.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def penalize(logits: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Returns logits [..., V] with the `seen` tokens, bool [..., V], made less probable.

    Divides positive logits by the penalty and multiplies negative ones (Keskar et al. 2019, section
    4.1, in the form that Hugging Face implements).
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def filter_top_k(logits: jax.Array, k: int) -> jax.Array:
    """Returns logits [..., V] with all but the k largest at -inf; keeps ties with the k-th."""
    if k >= logits.shape[-1]:
        return logits
    threshold = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < threshold, -jnp.inf, logits)


def filter_top_p(logits: jax.Array, p: float) -> jax.Array:
    """Returns logits [..., V] of the smallest set of most probable tokens with mass at least p.

    Keeps the token that crosses p, so at least one token (Holtzman et al. 2020, section 3.1).
    """
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ordered = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(ordered, axis=-1) - ordered
    rank = jnp.argsort(order, axis=-1)
    keep = jnp.take_along_axis(before < p, rank, axis=-1) | (rank == 0)
    return jnp.where(keep, logits, -jnp.inf)


def filter_min_p(logits: jax.Array, p: float) -> jax.Array:
    """Returns logits [..., V] of the tokens at least p times as probable as the most probable.

    Nguyen et al. 2024, section 3.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    return jnp.where(
        probabilities < p * probabilities.max(axis=-1, keepdims=True), -jnp.inf, logits
    )


def process(logits: jax.Array, sampling: Sampling, seen: jax.Array | None = None) -> jax.Array:
    """Returns the logits [..., V] from which a token is drawn; greedy choice takes their largest.

    Args:
      seen: bool [..., V], the tokens that each text contains; only a repetition penalty needs it.
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
    """Returns one token for each row of logits [B, V], int32 [B], drawn with that row's key."""
    logits = process(logits, sampling, seen)
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def tokens_seen(tokens: jax.Array, count: jax.Array, vocab_size: int) -> jax.Array:
    """Returns which tokens occur in the first `count` of each row of tokens [B, N], bool [B, V]."""
    batch_size, width = tokens.shape
    # Later columns get an index outside the vocabulary, which mode="drop" ignores.
    read = jnp.where(jnp.arange(width) < count, tokens, vocab_size)
    nothing = jnp.zeros((batch_size, vocab_size), bool)
    return nothing.at[jnp.arange(batch_size)[:, None], read].set(True, mode="drop")
