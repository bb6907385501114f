"""Generating tokens from any model that has `start` and `step`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.models.interface import Model, Variables


class Sampling(NamedTuple):
    """How a token is drawn from its logits; the filters apply in this order."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off


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


def sample(key: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
    """One token for each row of logits [B, V], int32 [B]."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k:
        logits = filter_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = filter_top_p(logits, sampling.top_p)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def generate(
    model: Model,
    variables: Variables,
    tokens: jax.Array,
    lengths: jax.Array,
    limits: jax.Array,
    key: jax.Array,
    *,
    sampling: Sampling,
    end_token: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A batch of texts continued in place: the tokens, the new lengths, and which have ended.

    Pure and jittable: `model`, `sampling` and `end_token` are static. Every sequence reads its own
    prompt, token by token, and then its own samples; the loop ends once all have ended.

    Args:
      tokens: int32 [B, N]; each row begins with its prompt, of at least one token.
      lengths: int32 [B], of the prompts.
      limits: int32 [B], the longest that each row may become; at most N.
      end_token: generated, it ends a sequence and is not kept; it may stand in a prompt.

    Raises:
      ValueError: the model does not generate.
    """

    if model.start is None or model.step is None:
        raise ValueError("this model does not generate: it has no start and step")
    step = model.step
    if model.prepare is not None:
        variables = model.prepare(variables)

    def unfinished(loop):
        position, _, _, _, ended = loop
        return jnp.any(~ended & (position + 1 < limits))

    def advance(loop):
        position, carry, tokens, new_lengths, ended = loop
        logits, carry = step(variables, carry, tokens[:, position])
        drawn = sample(jax.random.fold_in(key, position), logits, sampling)
        following = position + 1
        is_free = (following >= lengths) & (following < limits) & ~ended
        ended |= is_free & (drawn == end_token)
        writes = is_free & ~ended
        tokens = tokens.at[:, following].set(jnp.where(writes, drawn, tokens[:, following]))
        return following, carry, tokens, jnp.where(writes, following + 1, new_lengths), ended

    carry = model.start(variables, *tokens.shape)
    loop = (jnp.int32(0), carry, jnp.asarray(tokens), jnp.asarray(lengths), lengths >= limits)
    _, _, tokens, new_lengths, ended = jax.lax.while_loop(unfinished, advance, loop)
    return tokens, new_lengths, ended & (new_lengths < limits)
