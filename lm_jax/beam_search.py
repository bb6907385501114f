"""The most probable texts of any model that has `start` and `step`, by beam search.

Axes: r prompts, b beams, c candidates of a step, n tokens of a row, v vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.decoding import Source, first_carry, prepared
from lm_jax.models.interface import Carry, Model, Variables

LENGTH_PENALTIES = ("power", "gnmt")
EARLY_STOPPING = ("false", "true", "never")


class BeamSearch(NamedTuple):
    """How texts are searched for and ranked; the words are Hugging Face's."""

    num_beams: int = 4
    length_penalty: float = 1.0  # 0: off; above: longer texts rank higher
    length_penalty_kind: str = "power"
    """What divides the log-probability of n generated tokens, the end included: `power`, as in
    Hugging Face, n^penalty; `gnmt`, ((5 + n) / 6)^penalty (Wu et al. 2016, equation 14)."""
    early_stopping: str = "false"
    """When a prompt is done that has num_beams ended texts: `true`, at once; `false`, when the best
    beam scores below all of them, as if it ended now; `never`, when it does at any length."""


class Steps(NamedTuple):
    """The beams of every step, best first, [R, N, B] by the column of their token; -1 and -inf
    where there is none."""

    tokens: jax.Array  # int32
    parents: jax.Array  # int32, the beam of the column before
    log_probabilities: jax.Array  # float32, of all generated tokens so far


class Beams(NamedTuple):
    """The best texts of each prompt, highest score first; -inf where there are fewer."""

    tokens: jax.Array  # int32 [R, B, N], the prompt and what was generated
    lengths: jax.Array  # int32 [R, B], ends excluded
    ended: jax.Array  # bool [R, B]: by an end token, not by the limit
    log_probabilities: jax.Array  # float32 [R, B], of the generated tokens, the end included
    scores: jax.Array  # float32 [R, B], the same over the length penalty
    steps: Steps


class _Search(NamedTuple):
    position: jax.Array
    carry: Carry
    tokens_rbn: jax.Array
    log_p_rb: jax.Array
    is_open_r: jax.Array
    finished: Beams


def check(search: BeamSearch) -> None:
    """Raises ValueError for a search that cannot be."""
    if search.num_beams < 1:
        raise ValueError(f"num_beams is {search.num_beams}; expected at least 1")
    if search.length_penalty_kind not in LENGTH_PENALTIES:
        raise ValueError(
            f"length_penalty_kind is {search.length_penalty_kind!r}; "
            f"expected one of {', '.join(LENGTH_PENALTIES)}"
        )
    if search.early_stopping not in EARLY_STOPPING:
        raise ValueError(
            f"early_stopping is {search.early_stopping!r}; "
            f"expected one of {', '.join(EARLY_STOPPING)}"
        )


def beam_search(
    model: Model,
    variables: Variables,
    tokens: jax.Array,
    lengths: jax.Array,
    limits: jax.Array,
    *,
    search: BeamSearch,
    end_tokens: tuple[int, ...],
    source: Source | None = None,
    prefix_length: int = 0,
) -> Beams:
    """The best continuations of each prompt that the search finds.

    Pure and jittable: `model`, `search`, `end_tokens` and `prefix_length` are static. Sequences and
    scores are those of Hugging Face's `generate`: each step takes the best (1 + end tokens) x beams
    candidates, an end counts only among the best `num_beams` of them, and at the limit the best
    `num_beams` count as they are. One beam is greedy search, which stops at its first end. Each
    prompt gets what it would get alone.

    Args:
      tokens: int32 [R, N]; each row begins with its prompt, of at least one token.
      lengths: int32 [R], of the prompts.
      limits: int32 [R], the longest that each text may become; at most N.
      end_tokens: each, generated, ends a text; they may stand in prompts.
      source: what the encoder of a model that has one reads.
      prefix_length: tokens of every row that are read at once; less than the shortest prompt has.

    Raises:
      ValueError: the model does not generate, the search cannot be, or has more beams than the
        vocabulary has tokens.
    """
    check(search)
    carry = first_carry(model, variables, tokens, source, prefix_length)
    step, num_beams = model.step, search.num_beams
    assert step is not None
    variables = prepared(model, variables)
    rows, width = tokens.shape
    vocab_size = jax.eval_shape(step, variables, carry, tokens[:, 0])[0].shape[-1]
    if num_beams > vocab_size:
        raise ValueError(
            f"num_beams is {num_beams}, more than the vocabulary of {vocab_size} tokens; "
            "search with fewer"
        )
    tokens, lengths, limits = (jnp.asarray(x, jnp.int32) for x in (tokens, lengths, limits))
    num_candidates = min(max(2, 1 + len(end_tokens)), vocab_size) * num_beams
    stops_when_full = search.early_stopping == "true" or num_beams == 1

    def penalty(length_r: jax.Array) -> jax.Array:
        base = length_r.astype(jnp.float32)
        if search.length_penalty_kind == "gnmt":
            base = (5 + base) / 6
        return base**search.length_penalty

    def advance(loop: _Search) -> _Search:
        position, following = loop.position, loop.position + 1
        last = loop.tokens_rbn[:, :, position].reshape(-1)
        logits, carry = step(variables, loop.carry, last)
        log_p_rbv = jax.nn.log_softmax(logits).reshape(rows, num_beams, vocab_size)
        candidates_rc, index_rc = jax.lax.top_k(
            (loop.log_p_rb[:, :, None] + log_p_rbv).reshape(rows, -1), num_candidates
        )
        parent_rc, token_rc = index_rc // vocab_size, (index_rc % vocab_size).astype(jnp.int32)
        is_end_rc = jnp.isin(token_rc, jnp.array(end_tokens, jnp.int32))
        at_limit_r = following + 1 >= limits
        stops_rc = is_end_rc | at_limit_r[:, None]
        is_free_r = (following >= lengths) & loop.is_open_r
        generated_r = following + 1 - lengths

        # Candidates that stop are finished; the best of the others are the beams of the next step.
        is_new_rc = stops_rc & is_free_r[:, None] & (jnp.arange(num_candidates) < num_beams)
        tokens_rcn = _take(loop.tokens_rbn, parent_rc).at[:, :, following].set(token_rc)
        new = Beams(
            tokens_rcn,
            jnp.where(is_end_rc, following, following + 1),
            is_end_rc,
            candidates_rc,
            jnp.where(is_new_rc, candidates_rc / penalty(generated_r)[:, None], -jnp.inf),
            (),  # type: ignore[arg-type]
        )
        finished = _best_of(loop.finished, new, num_beams)
        log_p_rb, kept_rb = jax.lax.top_k(jnp.where(is_end_rc, -jnp.inf, candidates_rc), num_beams)

        # Rows still at their prompt go on with its tokens, and their beams as they were.
        beam_rb = jnp.broadcast_to(jnp.arange(num_beams), (rows, num_beams))
        choose = lambda free, held: jnp.where(is_free_r[:, None], free, held)  # noqa: E731
        parent_rb = choose(_take(parent_rc, kept_rb), beam_rb)
        token_rb = choose(_take(token_rc, kept_rb), loop.tokens_rbn[:, :, following])
        log_p_rb = choose(log_p_rb, loop.log_p_rb)
        tokens_rbn = _take(loop.tokens_rbn, parent_rb).at[:, :, following].set(token_rb)
        if num_beams > 1:
            flat = (jnp.arange(rows)[:, None] * num_beams + parent_rb).reshape(-1)
            carry = jax.tree.map(lambda x: x[flat] if x.ndim else x, carry)

        # A row stays open while a running beam may still beat the worst of its finished texts.
        hypothetical_r = generated_r
        if search.early_stopping == "never" and search.length_penalty > 0:
            hypothetical_r = limits - lengths
        worst_r = finished.scores[:, -1]
        is_better_r = log_p_rb[:, 0] / penalty(hypothetical_r) > worst_r
        if stops_when_full:
            is_better_r &= jnp.isneginf(worst_r)
        is_open_r = loop.is_open_r & (~is_free_r | is_better_r) & ~at_limit_r

        exists_rb = is_free_r[:, None] & (log_p_rb > -jnp.inf)
        write = lambda array, values, nothing: array.at[:, following].set(  # noqa: E731
            jnp.where(exists_rb, values, nothing)
        )
        steps = Steps(
            write(loop.finished.steps.tokens, token_rb, -1),
            write(loop.finished.steps.parents, parent_rb, -1),
            write(loop.finished.steps.log_probabilities, log_p_rb, -jnp.inf),
        )
        finished = finished._replace(steps=steps)
        return _Search(following, carry, tokens_rbn, log_p_rb, is_open_r, finished)

    tokens_rbn = jnp.repeat(tokens[:, None], num_beams, axis=1)
    none_rnb = jnp.full((rows, width, num_beams), -1, jnp.int32)
    nothing_rb = jnp.full((rows, num_beams), -jnp.inf)
    finished = Beams(
        tokens_rbn,
        jnp.repeat(lengths[:, None], num_beams, axis=1),
        jnp.zeros((rows, num_beams), bool),
        nothing_rb,
        nothing_rb,
        Steps(none_rnb, none_rnb, jnp.full(none_rnb.shape, -jnp.inf)),
    )
    first = _Search(
        jnp.int32(prefix_length),
        jax.tree.map(lambda x: jnp.repeat(x, num_beams, axis=0) if x.ndim else x, carry),
        tokens_rbn,
        nothing_rb.at[:, 0].set(0),  # all beams but one are copies of the prompt
        lengths < limits,
        finished,
    )
    return jax.lax.while_loop(lambda loop: jnp.any(loop.is_open_r), advance, first).finished


def _take(x: Any, index: jax.Array) -> jax.Array:
    """x [R, C, ...] at index [R, B] of its second axis."""
    return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)


def _best_of(finished: Beams, new: Beams, count: int) -> Beams:
    """The `count` texts of both with the highest scores; earlier ones first where they tie."""
    both = [jnp.concatenate(pair, axis=1) for pair in zip(finished[:-1], new[:-1], strict=True)]
    _, best_rb = jax.lax.top_k(both[-1], count)
    return Beams._make([*(_take(part, best_rb) for part in both), finished.steps])
