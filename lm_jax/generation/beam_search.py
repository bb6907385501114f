"""Finds the most probable texts of any model that has `start` and `step`, by beam search.

Axes: r prompts, b beams, c candidates of a step, n tokens of a row, v vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.config.parts import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.fields import choices_of
from lm_jax.generation.decode_loop import EncoderInput, Prefix, first_carry, prepare_variables
from lm_jax.models.interface import Carry, Model, Variables

# What is raised to the power `length_penalty` and divides the log-probability of n tokens.
LENGTH_PENALTIES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "power": lambda n: n,  # as in Hugging Face
    "gnmt": lambda n: (5 + n) / 6,  # Wu et al. 2016, equation 14
}
EARLY_STOPPING = choices_of(SamplesConfig, "early_stopping")


class BeamSearch(NamedTuple):
    """How texts are searched for and ranked, in Hugging Face's terms.

    `lm_jax.config.experiment.SamplesConfig` documents the fields.
    """

    num_beams: int = 4
    length_penalty: float = 1.0
    length_penalty_kind: str = "power"  # a key of LENGTH_PENALTIES
    early_stopping: str = "false"  # one of EARLY_STOPPING


class Steps(NamedTuple):
    """All beams of the search, best first, [R, N, B]; axis N is the column of their last token.

    Entries without a beam are -1, and -inf in `log_probabilities`.
    """

    tokens: jax.Array  # int32
    parents: jax.Array  # int32, index of the beam in the column before
    log_probabilities: jax.Array  # float32, sum over all generated tokens so far


class Beams(NamedTuple):
    """The best texts of each prompt, highest score first; the score is -inf where there is none."""

    tokens: jax.Array  # int32 [R, B, N], the prompt and the generated tokens
    lengths: jax.Array  # int32 [R, B], without end tokens
    ended: jax.Array  # bool [R, B]: by an end token, not by the limit
    log_probabilities: jax.Array  # float32 [R, B], sum over generated tokens, the end included
    scores: jax.Array  # float32 [R, B], log-probabilities divided by the length penalty
    steps: Steps


class _LoopState(NamedTuple):
    position: jax.Array
    carry: Carry
    tokens_rbn: jax.Array
    log_p_rb: jax.Array
    is_open_r: jax.Array
    finished: Beams


class _StepRows(NamedTuple):
    """The status of each row in one step."""

    column: jax.Array  # the column that this step writes
    generated_r: jax.Array  # number of generated tokens, this one included
    is_free_r: jax.Array  # open, and past the prompt
    at_limit_r: jax.Array  # this is the last token that fits


class _Task(NamedTuple):
    """The parts of a search that are the same in all steps."""

    search: BeamSearch
    end_tokens: tuple[int, ...]
    lengths_r: jax.Array
    limits_r: jax.Array

    def rows_at(self, loop: _LoopState) -> _StepRows:
        column = loop.position + 1
        is_free_r = (column >= self.lengths_r) & loop.is_open_r
        generated_r = column + 1 - self.lengths_r
        return _StepRows(column, generated_r, is_free_r, column + 1 >= self.limits_r)

    def penalty(self, length_r: jax.Array) -> jax.Array:
        base = LENGTH_PENALTIES[self.search.length_penalty_kind](length_r.astype(jnp.float32))
        return base**self.search.length_penalty


class _Candidates(NamedTuple):
    """The best continuations of all beams of a row, best first."""

    log_p_rc: jax.Array
    parent_rc: jax.Array  # index of the beam
    token_rc: jax.Array
    is_end_rc: jax.Array


class _NextBeams(NamedTuple):
    """The beams of the next step."""

    log_p_rb: jax.Array
    parents_rb: jax.Array
    tokens_rb: jax.Array


def validate(search: BeamSearch) -> None:
    """Raises UserError for a value that a field of the search cannot have."""
    if search.num_beams < 1:
        raise UserError(f"num_beams is {search.num_beams}; expected at least 1")
    for name, choices in (
        ("length_penalty_kind", LENGTH_PENALTIES),
        ("early_stopping", EARLY_STOPPING),
    ):
        if (given := getattr(search, name)) not in choices:
            raise UserError(f"{name} is {given!r}; expected one of {', '.join(choices)}")


def beam_search(
    model: Model,
    variables: Variables,
    tokens: jax.Array,
    lengths: jax.Array,
    limits: jax.Array,
    *,
    search: BeamSearch,
    end_tokens: tuple[int, ...],
    source: EncoderInput | None = None,
    prefix_length: int = 0,
    surplus: jax.Array | int = 0,
) -> Beams:
    """Returns the best continuations of each prompt that the search finds.

    Pure and jittable: `model`, `search`, `end_tokens` and `prefix_length` are static. Sequences and
    scores equal those of Hugging Face's `generate`: each step takes the best (1 + end tokens) x
    beams candidates; an end token counts only among the best `num_beams` of them; at the limit the
    best `num_beams` candidates count as finished. One beam is greedy search, which stops at its
    first end token. The result for a prompt does not depend on the other prompts.

    Args:
      tokens: int32 [R, N]; each row begins with its prompt of at least one token.
      lengths: int32 [R], tokens in each prompt.
      limits: int32 [R], the maximum length of each text; at most N.
      end_tokens: a generated end token ends its text. Prompts may contain them.
      source: the input of the encoder, for a model that has one.
      prefix_length: number of leading tokens that all rows read in one call: see `prefix_of`.
      surplus: how many of them, the last ones, do not count.

    Raises:
      UserError: the model does not generate, a field of `search` has no valid value, or there are
        more beams than tokens in the vocabulary.
    """
    validate(search)
    carry = first_carry(model, variables, tokens, source, Prefix(prefix_length, surplus))
    step, num_beams = model.step, search.num_beams
    assert step is not None
    variables = prepare_variables(model, variables)
    vocab_size = jax.eval_shape(step, variables, carry, tokens[:, 0])[0].shape[-1]
    if num_beams > vocab_size:
        raise UserError(
            f"num_beams is {num_beams}, more than the vocabulary of {vocab_size} tokens; "
            "search with fewer"
        )
    tokens, lengths, limits = (jnp.asarray(x, jnp.int32) for x in (tokens, lengths, limits))
    task = _Task(search, end_tokens, lengths, limits)

    def advance(loop: _LoopState) -> _LoopState:
        last = loop.tokens_rbn[:, :, loop.position].reshape(-1)
        logits, carry = step(variables, loop.carry, last)
        return _next_state(task, loop, logits, carry)

    first = _first_state(task, tokens, carry, prefix_length - surplus)
    return jax.lax.while_loop(lambda loop: jnp.any(loop.is_open_r), advance, first).finished


def _first_state(
    task: _Task, tokens: jax.Array, carry: Carry, position: jax.Array | int
) -> _LoopState:
    (rows, width), num_beams = tokens.shape, task.search.num_beams
    tokens_rbn = jnp.repeat(tokens[:, None], num_beams, axis=1)
    none_rnb = jnp.full((rows, width, num_beams), -1, jnp.int32)
    nothing_rb = jnp.full((rows, num_beams), -jnp.inf)
    finished = Beams(
        tokens_rbn,
        jnp.repeat(task.lengths_r[:, None], num_beams, axis=1),
        jnp.zeros((rows, num_beams), bool),
        nothing_rb,
        nothing_rb,
        Steps(none_rnb, none_rnb, jnp.full(none_rnb.shape, -jnp.inf)),
    )
    return _LoopState(
        jnp.int32(position),
        jax.tree.map(lambda x: jnp.repeat(x, num_beams, axis=0) if x.ndim else x, carry),
        tokens_rbn,
        nothing_rb.at[:, 0].set(0),  # the other beams start as copies of the first
        task.lengths_r < task.limits_r,
        finished,
    )


def _next_state(task: _Task, loop: _LoopState, logits: jax.Array, carry: Carry) -> _LoopState:
    """Returns the state after one step, from the logits [R x B, V] and the carry of that step."""
    here = task.rows_at(loop)
    found = _candidates(task, loop.log_p_rb, logits)
    finished = _add_finished(task, here, loop, found)
    chosen = _next_beams(here, loop, found)
    if task.search.num_beams > 1:
        carry = _reordered(carry, chosen.parents_rb)
    tokens_rbn = _take(loop.tokens_rbn, chosen.parents_rb)
    return _LoopState(
        here.column,
        carry,
        tokens_rbn.at[:, :, here.column].set(chosen.tokens_rb),
        chosen.log_p_rb,
        _stay_open(task, here, loop.is_open_r, chosen.log_p_rb[:, 0], finished.scores[:, -1]),
        finished._replace(steps=_recorded(here, loop.finished.steps, chosen)),
    )


def _candidates(task: _Task, log_p_rb: jax.Array, logits: jax.Array) -> _Candidates:
    rows, num_beams = log_p_rb.shape
    vocab_size = logits.shape[-1]
    count = min(max(2, 1 + len(task.end_tokens)), vocab_size) * num_beams
    log_p_rbv = jax.nn.log_softmax(logits).reshape(rows, num_beams, vocab_size)
    log_p_rc, index_rc = jax.lax.top_k((log_p_rb[:, :, None] + log_p_rbv).reshape(rows, -1), count)
    token_rc = (index_rc % vocab_size).astype(jnp.int32)
    is_end_rc = jnp.isin(token_rc, jnp.array(task.end_tokens, jnp.int32))
    return _Candidates(log_p_rc, index_rc // vocab_size, token_rc, is_end_rc)


def _add_finished(task: _Task, here: _StepRows, loop: _LoopState, found: _Candidates) -> Beams:
    """Returns the best finished texts, those among the candidates included."""
    num_beams = task.search.num_beams
    stops_rc = found.is_end_rc | here.at_limit_r[:, None]
    is_among_best_c = jnp.arange(stops_rc.shape[1]) < num_beams
    is_new_rc = stops_rc & here.is_free_r[:, None] & is_among_best_c
    scores_rc = found.log_p_rc / task.penalty(here.generated_r)[:, None]
    tokens_rcn = _take(loop.tokens_rbn, found.parent_rc)
    new = Beams(
        tokens_rcn.at[:, :, here.column].set(found.token_rc),
        jnp.where(found.is_end_rc, here.column, here.column + 1),
        found.is_end_rc,
        found.log_p_rc,
        jnp.where(is_new_rc, scores_rc, -jnp.inf),
        (),  # type: ignore[arg-type]
    )
    return _best_of(loop.finished, new, num_beams)


def _next_beams(here: _StepRows, loop: _LoopState, found: _Candidates) -> _NextBeams:
    """Returns the best candidates that do not end, or the next token of an unread prompt."""
    rows, num_beams = loop.log_p_rb.shape
    open_rc = jnp.where(found.is_end_rc, -jnp.inf, found.log_p_rc)
    log_p_rb, kept_rb = jax.lax.top_k(open_rc, num_beams)
    beam_rb = jnp.broadcast_to(jnp.arange(num_beams), (rows, num_beams))
    select = lambda free, unread: jnp.where(here.is_free_r[:, None], free, unread)  # noqa: E731
    return _NextBeams(
        select(log_p_rb, loop.log_p_rb),
        select(_take(found.parent_rc, kept_rb), beam_rb),
        select(_take(found.token_rc, kept_rb), loop.tokens_rbn[:, :, here.column]),
    )


def _reordered(carry: Carry, parents_rb: jax.Array) -> Carry:
    rows, num_beams = parents_rb.shape
    flat = (jnp.arange(rows)[:, None] * num_beams + parents_rb).reshape(-1)
    return jax.tree.map(lambda x: x[flat] if x.ndim else x, carry)


def _stay_open(
    task: _Task, here: _StepRows, is_open_r: jax.Array, best_r: jax.Array, worst_r: jax.Array
) -> jax.Array:
    """Returns whether a running beam of each row may still beat the row's worst finished text.

    Args:
      best_r: log-probability of the best running beam.
      worst_r: score of the worst finished text.
    """
    search, length_r = task.search, here.generated_r
    if search.early_stopping == "never" and search.length_penalty > 0:
        length_r = task.limits_r - task.lengths_r
    is_better_r = best_r / task.penalty(length_r) > worst_r
    if search.early_stopping == "true" or search.num_beams == 1:
        is_better_r &= jnp.isneginf(worst_r)
    return is_open_r & (~here.is_free_r | is_better_r) & ~here.at_limit_r


def _recorded(here: _StepRows, steps: Steps, chosen: _NextBeams) -> Steps:
    exists_rb = here.is_free_r[:, None] & (chosen.log_p_rb > -jnp.inf)
    write = lambda array, values, nothing: array.at[:, here.column].set(  # noqa: E731
        jnp.where(exists_rb, values, nothing)
    )
    return Steps(
        write(steps.tokens, chosen.tokens_rb, -1),
        write(steps.parents, chosen.parents_rb, -1),
        write(steps.log_probabilities, chosen.log_p_rb, -jnp.inf),
    )


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    """Returns x [R, C, ...] at index [R, B] of its second axis."""
    return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)


def _best_of(finished: Beams, new: Beams, count: int) -> Beams:
    """Returns the `count` texts with the highest scores; where scores tie, earlier ones first."""
    both = [jnp.concatenate(pair, axis=1) for pair in zip(finished[:-1], new[:-1], strict=True)]
    _, best_rb = jax.lax.top_k(both[-1], count)
    return Beams._make([*(_take(part, best_rb) for part in both), finished.steps])
