"""The loss of single tokens: of sequences packed into few shapes, and of continuations of contexts.

Sequences share rows, kept apart by segments and positions as in evaluation, so that a score depends
neither on the other sequences nor on the order in which they are given.
"""

import bisect
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lm_jax.data import Tokenizer
from lm_jax.errors import UserError
from lm_jax.models.interface import Batch, LossFunction, Model, Variables
from lm_jax.parallel import sharding
from lm_jax.progress import Show

_NARROWEST = 64  # columns; all shorter sequences share rows of this width
_MOST_LOGITS = 2**27  # of a batch, 512 MB
_MOST_TOKENS = 2**13  # of a batch


class Scored(NamedTuple):
    """A sequence of tokens, of which those from `first` on are scored, each from all before it."""

    tokens: np.ndarray  # int32 [N]
    first: int = 1  # at least 1: nothing predicts the first token


class TokenScores(NamedTuple):
    """What the scored tokens of a sequence cost, in their order."""

    nats: np.ndarray  # float32 [N - first]: -log p(token)
    correct: np.ndarray  # bool [N - first]: no token has a larger logit


class Scores(NamedTuple):
    """What continuations cost, in the order given."""

    nats: np.ndarray  # float64 [N]: -log p(continuation | context)
    tokens: np.ndarray  # int64 [N]: of the continuation
    is_greedy: np.ndarray  # bool [N]: each token of the continuation is the most probable one


class Scorer(NamedTuple):
    """A language model of text that scores tokens."""

    model: Model
    variables: Variables
    mesh: Mesh
    tokenizer: Tokenizer
    vocab_size: int  # logits of the model
    max_length: int | None  # tokens that the model reads; None: any number


def score(
    scorer: Scorer,
    contexts: Sequence[str],
    continuations: Sequence[str],
    *,
    begins: bool = True,
    show: Show | None = None,
) -> Scores:
    """Returns what each continuation costs after its context.

    White space at the end of a context belongs to the continuation, as most tokenizers join it to
    the word that follows. A context that is too long loses its beginning.

    Args:
      begins: whether a document begins before the context; an empty context has it in any case.
      show: called with the progress.

    Raises:
      UserError: a continuation has no tokens, or more than the model reads.
    """
    pairs = [
        split_pair(scorer.tokenizer, *pair, begins=begins)
        for pair in zip(contexts, continuations, strict=True)
    ]
    return score_encoded(scorer, pairs, show)


def split_pair(
    tokenizer: Tokenizer, context: str, continuation: str, begins: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of a context and those that a continuation adds to it, both int32.

    Both are encoded as one text, and a continuation is what follows as many tokens as the context
    has by itself: the rule of lm-evaluation-harness.
    """
    continuation = context[len(context.rstrip()) :] + continuation
    context = context.rstrip()
    beginning = np.array([tokenizer.beginning], np.int32)
    before, whole = tokenizer.encode_all([context, context + continuation])
    opening = beginning if begins or not len(before) else beginning[:0]
    return np.concatenate([opening, before]), whole[len(before) :]


def score_encoded(
    scorer: Scorer, pairs: Sequence[tuple[np.ndarray, np.ndarray]], show: Show | None = None
) -> Scores:
    """Returns what continuations cost, from the tokens of (context, continuation).

    Equal pairs are computed once.

    Raises:
      UserError: as `score`.
    """
    numbers: dict[tuple[bytes, int], int] = {}
    sequences: list[Scored] = []
    which = []
    for number, (context, continuation) in enumerate(pairs):
        _refuse_length(scorer, number, len(continuation))
        tokens = np.concatenate([context, continuation])
        if scorer.max_length is not None:
            tokens = tokens[-scorer.max_length - 1 :]
        key = (tokens.tobytes(), len(continuation))
        if key not in numbers:
            numbers[key] = len(sequences)
            sequences.append(Scored(tokens, len(tokens) - len(continuation)))
        which.append(numbers[key])
    found = score_sequences(scorer, sequences, show)
    return Scores(
        np.array([found[index].nats.sum(dtype=np.float64) for index in which]),
        np.array([len(continuation) for _, continuation in pairs], np.int64),
        np.array([bool(found[index].correct.all()) for index in which], bool),
    )


def _refuse_length(scorer: Scorer, number: int, length: int) -> None:
    if not length:
        raise UserError(
            f"continuation {number + 1} adds no token to its context; give a text that is not empty"
        )
    if scorer.max_length is not None and length > scorer.max_length:
        raise UserError(
            f"continuation {number + 1} has {length:,} tokens, and the model reads at most "
            f"{scorer.max_length:,}; give a shorter one, or measure it as a document (--text)"
        )


def score_sequences(
    scorer: Scorer, sequences: Sequence[Scored], show: Show | None = None
) -> list[TokenScores]:
    """Returns the scores of each sequence, of at most `max_length` + 1 tokens, in the order given.

    Inputs of several sequences share a row. Widths of rows are powers of two and the means of
    neighbours, so that few programs are compiled.
    """
    found: list[TokenScores | None] = [None] * len(sequences)
    placed = sharding.batch_sharding(scorer.mesh)
    done = 0

    def read(pending: tuple[list[list[int]], tuple[jax.Array, ...]]) -> None:
        nonlocal done
        rows, (nats, correct) = pending[0], map(np.asarray, pending[1])
        for row, members in enumerate(rows):
            at = 0
            for index in members:
                tokens, first = sequences[index]
                counted = slice(at + first - 1, at + len(tokens) - 1)
                found[index] = TokenScores(nats[row, counted], correct[row, counted] > 0)
                at += len(tokens) - 1
                done += 1
        if show:
            show("scored", done, len(sequences))

    pending = None
    with sharding.on_mesh(scorer.mesh):
        most = min(_MOST_TOKENS, _MOST_LOGITS // scorer.vocab_size)
        for rows, batch in packed_batches(sequences, scorer.mesh, scorer.max_length, most):
            arrays = sharding.place_batch(batch, placed)
            result = _losses(scorer.model.loss, scorer.variables, arrays)
            if pending:  # read one batch late, while the device computes the next
                read(pending)
            pending = rows, result
        if pending:
            read(pending)
    return [scores for scores in found if scores is not None]


@functools.partial(jax.jit, static_argnames="loss")
def _losses(loss: LossFunction, variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
    losses, _ = loss(variables, batch, train=False, key=None)
    return losses.nats, losses.correct


def packed_batches(
    sequences: Sequence[Scored], mesh: Mesh, max_length: int | None, most_tokens: int = _MOST_TOKENS
) -> Iterator[tuple[list[list[int]], dict[str, np.ndarray]]]:
    """Yields the sequences of each row and the arrays of each batch, the longest first.

    In a row the inputs of its sequences, all tokens but the last, follow one another.

    Args:
      max_length: tokens that the model reads; None: any number.
      most_tokens: tokens of a batch.
    """
    parts = sharding.data_parts(mesh)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].tokens))
    lengths = [len(sequences[index].tokens) - 1 for index in order]
    while order:
        width = _width(lengths[-1], max_length)
        most_rows = max(most_tokens // width // parts, 1) * parts
        rows: list[list[int]] = []
        while order and len(rows) < most_rows:
            members, left = [], width
            while fits := bisect.bisect_right(lengths, left):
                left -= lengths.pop(fits - 1)
                members.append(order.pop(fits - 1))
            rows.append(members)
        needed = parts * 2 ** math.ceil(math.log2(-(-len(rows) // parts)))
        yield rows, _arrays(sequences, rows, min(needed, most_rows), width)


def _width(length: int, max_length: int | None) -> int:
    """Returns the number of columns for a sequence: 64, 96, 128, 192, 256, ..., `max_length`."""
    power = 2 ** math.ceil(math.log2(max(length, _NARROWEST)))
    width = power * 3 // 4 if max(length, _NARROWEST) <= power * 3 // 4 else power
    return width if max_length is None else min(width, max_length)


def _arrays(
    sequences: Sequence[Scored], rows: Sequence[Sequence[int]], num_rows: int, width: int
) -> dict[str, np.ndarray]:
    names = ("inputs", "targets", "segments", "positions")
    batch = {name: np.zeros((num_rows, width), np.int32) for name in names}
    batch["weights"] = np.zeros((num_rows, width), np.float32)
    for row, members in enumerate(rows):
        at = 0
        for segment, index in enumerate(members, 1):
            tokens, first = sequences[index]
            here = slice(at, at + len(tokens) - 1)
            batch["inputs"][row, here], batch["targets"][row, here] = tokens[:-1], tokens[1:]
            batch["segments"][row, here] = segment
            batch["positions"][row, here] = np.arange(len(tokens) - 1)
            batch["weights"][row, at + first - 1 : here.stop] = 1
            at = here.stop
    return batch
