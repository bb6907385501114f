"""Generating tokens from any model that has `start` and `step`.

Axes: b sequences, n tokens of a row, v vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.generation.sampling import Sampling, sample, tokens_seen
from lm_jax.models.interface import Carry, Model, Variables

Source = Mapping[str, jax.Array]  # source, source_segments: int32 [B, S]


class Texts(NamedTuple):
    """A batch of texts on their way: each row is its prompt and what was generated so far."""

    tokens: jax.Array  # int32 [B, N]
    lengths: jax.Array  # int32 [B], ends excluded
    ended: jax.Array  # bool [B]: an end was generated, or the row is no longer to go on
    log_probabilities: jax.Array
    """float32 [B, N], of each generated token under the model, whatever the sampling; the end's
    follows the text's last; 0 elsewhere."""
    position: jax.Array  # int32 scalar: the column of `tokens` that the model reads next
    carry: Carry


def batch_of_prompts(
    prompts: Sequence[Sequence[int]], width: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as rows of tokens, int32 [B, width] padded with 0, and their lengths, int32 [B].

    Raises:
      UserError: a prompt is empty, longer than the width, or has a token that the model has not.
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


def prepared(model: Model, variables: Variables) -> Variables:
    """The variables as a loop of steps takes them fastest."""
    return variables if model.prepare is None else model.prepare(variables)


def first_carry(
    model: Model, variables: Variables, tokens: jax.Array, source: Source | None, prefix_length: int
) -> Carry:
    """The carry of rows of tokens [B, N] after their first `prefix_length` tokens.

    Raises:
      UserError: the model does not generate.
    """
    if model.start is None or model.step is None:
        raise UserError("this model does not generate: it has no start and step")
    arguments: dict[str, Any] = {} if source is None else {"source": source}
    carry = model.start(variables, *tokens.shape, **arguments)
    variables = prepared(model, variables)
    if prefix_length < 1:
        return carry
    if model.read is not None:
        return model.read(variables, carry, tokens[:, :prefix_length])[1]
    step = model.step
    return jax.lax.fori_loop(
        0, prefix_length, lambda i, carry: step(variables, carry, tokens[:, i])[1], carry
    )


def begin(
    model: Model,
    variables: Variables,
    tokens: jax.Array,
    lengths: jax.Array,
    *,
    source: Source | None = None,
    prefix_length: int = 0,
) -> Texts:
    """Prompts as texts that `advance` makes longer.

    Pure and jittable: `model` and `prefix_length` are static.

    Args:
      tokens: int32 [B, N]; each row begins with its prompt, of at least one token.
      lengths: int32 [B], of the prompts.
      source: what the encoder of a model that has one reads.
      prefix_length: tokens of every row that are read at once; less than the shortest prompt has.

    Raises:
      UserError: the model does not generate.
    """
    carry = first_carry(model, variables, tokens, source, prefix_length)
    rows = tokens.shape[0]
    nothing = jnp.zeros(tokens.shape, jnp.float32)
    tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
    return Texts(tokens, lengths, jnp.zeros(rows, bool), nothing, jnp.int32(prefix_length), carry)


def advance(
    model: Model,
    variables: Variables,
    texts: Texts,
    limits: jax.Array,
    until: jax.Array | int,
    keys: jax.Array,
    *,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
) -> Texts:
    """Texts continued in place, until all have ended or reach column `until`.

    Pure and jittable: `model`, `sampling` and `end_tokens` are static. Every row reads its own
    prompt, token by token, and then its own samples. A row depends on nothing but its own prompt
    and key: not on the rows beside it, nor on where `until` interrupts.

    Args:
      limits: int32 [B], the longest that each row may become; at most N.
      keys: PRNG keys [B], of each row's draws.
      end_tokens: each, generated, ends a text and is not kept; they may stand in prompts.
    """
    step = model.step
    assert step is not None
    variables = prepared(model, variables)
    ends = jnp.array(end_tokens, jnp.int32)
    prompts = texts.lengths  # a row draws its own tokens from here on

    def unfinished(texts: Texts):
        following = texts.position + 1
        return jnp.any(~texts.ended & (following < limits)) & (following < until)

    def advance_by_one(texts: Texts):
        position, following = texts.position, texts.position + 1
        logits_bv, carry = step(variables, texts.carry, texts.tokens[:, position])
        seen_bv = None
        if sampling.repetition_penalty != 1:
            seen_bv = tokens_seen(texts.tokens, following, logits_bv.shape[-1])
            seen_bv = seen_bv.at[:, ends].set(False)  # which texts begin with: they may end too
        now_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, following)
        drawn = sample(now_keys, logits_bv, sampling, seen_bv)
        log_probabilities = jnp.take_along_axis(jax.nn.log_softmax(logits_bv), drawn[:, None], 1)
        is_free = (following >= prompts) & (following < limits) & ~texts.ended
        is_end = is_free & jnp.isin(drawn, ends)
        writes = is_free & ~is_end
        write = lambda array, free, values: array.at[:, following].set(  # noqa: E731
            jnp.where(free, values, array[:, following])
        )
        return Texts(
            write(texts.tokens, writes, drawn),
            jnp.where(writes, following + 1, texts.lengths),
            texts.ended | is_end,
            write(texts.log_probabilities, is_free, log_probabilities[:, 0]),
            following,
            carry,
        )

    return jax.lax.while_loop(unfinished, advance_by_one, texts)


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
    source: Source | None = None,
    prefix_length: int = 0,
) -> Texts:
    """A batch of prompts continued to their ends or limits: `begin`, and `advance` to the last.

    Raises:
      UserError: the model does not generate.
    """
    texts = begin(model, variables, tokens, lengths, source=source, prefix_length=prefix_length)
    return advance(
        model,
        variables,
        texts,
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
    source: Source | None = None,
) -> tuple[jax.Array, jax.Array]:
    """What the model expects after each token of a text [T], most probable first.

    Pure and jittable: `model` and `count` are static. Where the vocabulary is smaller than
    `count`, all of it.

    Args:
      source: int32 [1, S] each, what the encoder of a model that has one reads.

    Returns:
      The tokens, int32 [T, count], and their probabilities, float32 [T, count].

    Raises:
      UserError: the model does not generate.
    """
    carry = first_carry(model, variables, tokens[None], source, 0)
    step = model.step
    assert step is not None
    variables = prepared(model, variables)

    def read(carry, token):
        logits_bv, carry = step(variables, carry, token[None])
        probabilities_v = jax.nn.softmax(logits_bv[0])
        return carry, jax.lax.top_k(probabilities_v, min(count, len(probabilities_v)))

    _, (probabilities, best) = jax.lax.scan(read, carry, tokens)
    return best.astype(jnp.int32), probabilities
