"""Generates tokens with any model that has `start` and `step`.

Axes: b sequences, n tokens of a row, v vocabulary.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.generation.sampling import Sampling, sample, tokens_seen
from lm_jax.models.interface import Carry, Model, Variables

EncoderInput = Mapping[str, Any]  # source, source_segments: int32 [B, S]
_MULTIPLE = 16  # lengths of prefixes are multiples of it, as each length compiles a program


class DecodeState(NamedTuple):
    """A batch of unfinished texts: each row holds its prompt and the tokens generated so far."""

    tokens: jax.Array  # int32 [B, N]
    lengths: jax.Array  # int32 [B], without end tokens
    ended: jax.Array  # bool [B]: an end token was generated, or the caller stopped the row
    log_probabilities: jax.Array
    """float32 [B, N]: log-probability of each generated token under the unmodified model, in nats.
    The value of an end token stands after the text's last token; all other entries are 0."""
    position: jax.Array  # int32 scalar: the column of `tokens` that the model reads next
    carry: Carry


def batch_of_prompts(
    prompts: Sequence[Sequence[int]], width: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns prompts as int32 [B, width], padded with 0, and their lengths, int32 [B].

    Raises:
      UserError: a prompt is empty, longer than `width`, or has a token outside the vocabulary.
    """
    tokens = np.zeros((len(prompts), width), np.int32)
    for index, (row, prompt) in enumerate(zip(tokens, prompts, strict=True)):
        if not 0 < len(prompt) <= width:
            raise UserError(f"prompt {index} has {len(prompt)} tokens; expected 1 to {width}")
        outside = [token for token in prompt if not 0 <= token < vocab_size]
        if outside:
            raise UserError(
                f"prompt {index} has the token {outside[0]}, which is outside the vocabulary of "
                f"{vocab_size}; encode it with the model's own tokenizer"
            )
        row[: len(prompt)] = prompt
    return tokens, np.array([len(prompt) for prompt in prompts], np.int32)


def prepare_variables(model: Model, variables: Variables) -> Variables:
    """Returns the variables in the form in which `step` is fastest."""
    return variables if model.prepare is None else model.prepare(variables)


class Prefix(NamedTuple):
    """The tokens that all rows of a batch read in one call."""

    length: int = 0  # static: each length is a program of its own
    surplus: jax.Array | int = 0  # how many of them, the last ones, are forgotten


def prefix_of(model: Model, shortest: int, width: int) -> Prefix:
    """Returns what rows of prompts read at once, in few lengths.

    Args:
      shortest: tokens of the shortest prompt, whose last one `advance` reads.
      width: tokens of a row.
    """
    known = shortest - 1
    if model.read is not None and model.forget is None:
        return Prefix(known // _MULTIPLE * _MULTIPLE)
    length = min(-(-known // _MULTIPLE) * _MULTIPLE, width)
    return Prefix(length, length - known)


def first_carry(
    model: Model,
    variables: Variables,
    tokens: jax.Array,
    source: EncoderInput | None,
    prefix: Prefix,
) -> Carry:
    """Returns the carry after the first tokens of each row of tokens [B, N].

    Raises:
      UserError: the model does not generate.
    """
    if model.start is None or model.step is None:
        raise UserError("this model does not generate: it has no start and step")
    arguments: dict[str, Any] = {} if source is None else {"source": source}
    carry = model.start(variables, *tokens.shape, **arguments)
    if prefix.length < 1:
        return carry
    if model.read is not None:  # once: preparing the variables takes longer than it saves
        carry = model.read(variables, carry, tokens[:, : prefix.length])[1]
        return carry if model.forget is None else model.forget(carry, prefix.surplus)
    step, variables = model.step, prepare_variables(model, variables)
    return jax.lax.fori_loop(
        0,
        prefix.length - prefix.surplus,
        lambda i, carry: step(variables, carry, tokens[:, i])[1],
        carry,
    )


def begin(
    model: Model,
    variables: Variables,
    tokens: jax.Array,
    lengths: jax.Array,
    *,
    source: EncoderInput | None = None,
    prefix_length: int = 0,
    surplus: jax.Array | int = 0,
) -> DecodeState:
    """Returns the state from which `advance` continues the prompts.

    Pure and jittable: `model` and `prefix_length` are static.

    Args:
      tokens: int32 [B, N]; each row begins with its prompt of at least one token.
      lengths: int32 [B], tokens in each prompt.
      source: the input of the encoder, for a model that has one.
      prefix_length: number of leading tokens that all rows read in one call: see `prefix_of`.
      surplus: how many of them, the last ones, do not count; the others are fewer than the tokens
        of the shortest prompt.

    Raises:
      UserError: the model does not generate.
    """
    carry = first_carry(model, variables, tokens, source, Prefix(prefix_length, surplus))
    rows = tokens.shape[0]
    nothing = jnp.zeros(tokens.shape, jnp.float32)
    tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
    return DecodeState(
        tokens,
        lengths,
        jnp.zeros(rows, bool),
        nothing,
        jnp.asarray(prefix_length - surplus, jnp.int32),
        carry,
    )


def advance(
    model: Model,
    variables: Variables,
    state: DecodeState,
    limits: jax.Array,
    until: jax.Array | int,
    keys: jax.Array,
    *,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
    is_prepared: bool = False,
) -> DecodeState:
    """Continues texts until all have ended or the loop reaches column `until`.

    Pure and jittable: `model`, `sampling`, `end_tokens` and `is_prepared` are static. Each row
    reads its prompt token by token, then its own samples. A row depends only on its prompt and its
    key, not on the other rows and not on the columns at which `until` interrupts the loop.

    Args:
      limits: int32 [B], the maximum length of each row; at most N.
      keys: PRNG keys [B], one for the draws of each row.
      end_tokens: a generated end token ends its text and is not kept. Prompts may contain them.
      is_prepared: whether the variables come from `prepare_variables`, which several calls share.
    """
    step = model.step
    assert step is not None
    if not is_prepared:
        variables = prepare_variables(model, variables)
    ends = jnp.array(end_tokens, jnp.int32)
    prompt_lengths = state.lengths  # from this column on a row reads its own samples

    def unfinished(state: DecodeState) -> jax.Array:
        following = state.position + 1
        return jnp.any(~state.ended & (following < limits)) & (following < until)

    def advance_by_one(state: DecodeState) -> DecodeState:
        position, following = state.position, state.position + 1
        logits_bv, carry = step(variables, state.carry, state.tokens[:, position])
        seen_bv = None
        if sampling.repetition_penalty != 1:
            seen_bv = tokens_seen(state.tokens, following, logits_bv.shape[-1])
            # Every text begins with the end token; penalizing it as seen would delay the end.
            seen_bv = seen_bv.at[:, ends].set(False)
        now_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, following)
        drawn = sample(now_keys, logits_bv, sampling, seen_bv)
        log_probabilities = jnp.take_along_axis(jax.nn.log_softmax(logits_bv), drawn[:, None], 1)
        is_free = (following >= prompt_lengths) & (following < limits) & ~state.ended
        is_end = is_free & jnp.isin(drawn, ends)
        writes = is_free & ~is_end
        write = lambda array, free, values: array.at[:, following].set(  # noqa: E731
            jnp.where(free, values, array[:, following])
        )
        return DecodeState(
            write(state.tokens, writes, drawn),
            jnp.where(writes, following + 1, state.lengths),
            state.ended | is_end,
            write(state.log_probabilities, is_free, log_probabilities[:, 0]),
            following,
            carry,
        )

    # XLA for CPUs multiplies arrays without axes of length 1. A cache with such axes it would write
    # twice, once in each shape, and so copy at every step.
    whole = functools.partial(jax.tree.map, lambda like, x: jnp.reshape(x, like.shape), state.carry)
    squeeze = functools.partial(jax.tree.map, jnp.squeeze)
    found = jax.lax.while_loop(
        unfinished,
        lambda now: _with_carry(squeeze, advance_by_one(_with_carry(whole, now))),
        _with_carry(squeeze, state),
    )
    return _with_carry(whole, found)


def _with_carry(change: Callable[[Carry], Carry], state: DecodeState) -> DecodeState:
    return state._replace(carry=change(state.carry))


def generate(
    model: Model,
    variables: Variables,
    tokens: jax.Array,
    lengths: jax.Array,
    limits: jax.Array,
    keys: jax.Array,
    *,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
    source: EncoderInput | None = None,
    prefix_length: int = 0,
    surplus: jax.Array | int = 0,
) -> DecodeState:
    """Continues a batch of prompts to their ends or limits: `begin`, then `advance` to column N.

    Raises:
      UserError: the model does not generate.
    """
    state = begin(
        model,
        variables,
        tokens,
        lengths,
        source=source,
        prefix_length=prefix_length,
        surplus=surplus,
    )
    return advance(
        model,
        variables,
        state,
        limits,
        tokens.shape[1],
        keys,
        sampling=sampling,
        end_tokens=end_tokens,
    )


def next_token_probabilities(
    model: Model,
    variables: Variables,
    tokens: jax.Array,
    *,
    count: int = 10,
    source: EncoderInput | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the `count` most probable next tokens after each token of a text [T].

    Pure and jittable: `model` and `count` are static. Returns the whole vocabulary if it is smaller
    than `count`.

    Args:
      source: the input of the encoder, int32 [1, S] each, for a model that has one.

    Returns:
      The tokens, int32 [T, count], most probable first, and their probabilities, float32
      [T, count].

    Raises:
      UserError: the model does not generate.
    """
    carry = first_carry(model, variables, tokens[None], source, Prefix())
    step = model.step
    assert step is not None
    variables = prepare_variables(model, variables)

    def read(carry: Carry, token: jax.Array) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
        logits_bv, carry = step(variables, carry, token[None])
        probabilities_v = jax.nn.softmax(logits_bv[0])
        best = jax.lax.top_k(probabilities_v, min(count, len(probabilities_v)))
        return carry, (best[0], best[1])

    _, (probabilities, best) = jax.lax.scan(read, carry, tokens)
    return best.astype(jnp.int32), probabilities
