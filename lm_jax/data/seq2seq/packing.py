"""Pairs of a source and a target as batches: several to a row, so that one shape serves all.

An encoder-decoder reads sources and targets in rows of their own. A model that has no encoder reads
each pair as one text, source, end, target, end, of which only the target counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.documents import Batch, TokenizedDocuments, rows_of_process
from lm_jax.data.seq2seq.parallel_corpus import ParallelSplit
from lm_jax.errors import UserError

_POOL = 4096  # pairs that are sorted and packed together
_READ = ("source", "source_segments", "source_positions")
_WRITTEN = ("inputs", "targets", "segments", "positions", "documents")


class _Sides(NamedTuple):
    """How many tokens of each pair are read, its ends included: int64 [N]."""

    source: np.ndarray
    target: np.ndarray


def _sides(
    split: ParallelSplit, source_length: int | None, context_length: int, truncate: bool
) -> _Sides:
    if source_length is None:
        return _halves(split, context_length, truncate)
    lengths = []
    for documents, longest, name, field in (
        (split.source, source_length, "source", "source_length"),
        (split.target, context_length, "target", "context_length"),
    ):
        found = np.diff(documents.starts)
        over = np.flatnonzero(found > longest)
        if len(over) and not truncate:
            first = over[0]
            raise UserError(
                f"{split.origins[first]}: a {name} of {found[first]:,} tokens is longer than "
                f"model.{field} {longest}{_more(over)}; raise it, leave long "
                "pairs out with data.longest_characters, or set data.truncate=true"
            )
        lengths.append(np.minimum(found, longest))
    return _Sides(*lengths)


def _halves(split: ParallelSplit, context_length: int, truncate: bool) -> _Sides:
    """Both sides of pairs that are one text each; where that is cut, neither keeps over half."""
    sides = _Sides(np.diff(split.source.starts), np.diff(split.target.starts))
    found = sides.source + sides.target
    over = np.flatnonzero(found > context_length)
    if not len(over):
        return sides
    if not truncate:
        first = over[0]
        raise UserError(
            f"{split.origins[first]}: a pair of {found[first]:,} tokens is longer than "
            f"model.context_length {context_length}{_more(over)}; raise it, "
            "leave long pairs out with data.longest_characters, or set data.truncate=true"
        )
    half = np.where(found > context_length, context_length // 2, context_length)
    return _Sides(np.minimum(sides.source, half), np.minimum(sides.target, half))


def _more(over: np.ndarray) -> str:
    return f" (so are {len(over) - 1:,} more)" if len(over) > 1 else ""


class _Packing(NamedTuple):
    """Which pairs share a row: row r holds pairs[firsts[r] : firsts[r + 1]]."""

    pairs: np.ndarray
    firsts: np.ndarray


def pack(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    source_length: int,
    context_length: int,
    order: np.ndarray,
) -> _Packing:
    """Pairs packed into rows in which both sides fit, the longest first, each in the first row.

    First-fit decreasing (Johnson 1973) within pools of a few thousand pairs, taken in `order`.
    """
    sizes = np.stack([source_lengths / source_length, target_lengths / context_length], axis=1)
    rows: list[list[int]] = []
    for first in range(0, len(order), _POOL):
        pool = order[first : first + _POOL]
        longest_first = pool[np.argsort(-sizes[pool].max(axis=1), kind="stable")]
        room = np.empty((2, len(pool)), np.int64)  # of each row, on both sides
        opened: list[list[int]] = []
        for pair in longest_first.tolist():
            source, target = source_lengths[pair], target_lengths[pair]
            fits = (room[0, : len(opened)] >= source) & (room[1, : len(opened)] >= target)
            row = int(fits.argmax()) if fits.any() else len(opened)
            if row == len(opened):
                opened.append([])
                room[:, row] = source_length, context_length
            opened[row].append(pair)
            room[:, row] -= source, target
        rows += opened
    firsts = np.cumsum([0, *map(len, rows)])
    return _Packing(np.array([pair for row in rows for pair in row], np.int64), firsts)


@dataclass(frozen=True)
class _Rows:
    """Rows of a split, by number."""

    split: ParallelSplit
    sides: _Sides
    packing: _Packing
    source_length: int | None  # None: source and target are one text
    context_length: int

    def __len__(self) -> int:
        return len(self.packing.firsts) - 1

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The rows of these numbers; rows beyond the last are of no weight."""
        shapes: list[tuple[tuple[str, ...], int]] = [(_WRITTEN, self.context_length)]
        if self.source_length is not None:
            shapes.append((_READ, self.source_length))
        batch = {
            name: np.zeros((len(numbers), width), np.int32)
            for names, width in shapes
            for name in names
        }
        batch["weights"] = np.zeros((len(numbers), self.context_length), np.float32)
        for index, number in enumerate(numbers):
            if number < len(self):
                self._fill({name: array[index] for name, array in batch.items()}, number)
        return batch

    def _fill(self, row: Batch, number: int) -> None:
        first, last = self.packing.firsts[number : number + 2]
        read = written = 0
        for segment, pair in enumerate(self.packing.pairs[first:last].tolist(), 1):
            source = self._ended(self.split.source, pair, int(self.sides.source[pair]))
            tokens = self._ended(self.split.target, pair, int(self.sides.target[pair]))
            counted = written
            if self.source_length is None:
                counted += len(source)
                tokens = np.concatenate([source, tokens])
            else:
                here = slice(read, read + len(source))
                row["source"][here], row["source_segments"][here] = source, segment
                row["source_positions"][here] = np.arange(len(source))
                read = here.stop
            here = slice(written, written + len(tokens))
            row["targets"][here], row["segments"][here] = tokens, segment
            row["inputs"][here] = np.append(tokens[-1], tokens[:-1])
            row["positions"][here] = np.arange(len(tokens))
            row["documents"][here] = pair
            row["weights"][counted : here.stop] = 1
            written = here.stop

    @staticmethod
    def _ended(documents: TokenizedDocuments, number: int, length: int) -> np.ndarray:
        """The tokens of a text and its end, which a text that was cut has as well."""
        start = documents.starts[number] + 1
        return np.append(documents.tokens[start : start + length - 1], documents.tokens[0])

    def padding(self) -> tuple[float, ...]:
        """The share of the rows that holds no token, of the sources and of the targets."""
        tokens = np.array([side.sum() for side in self.sides])
        widths = np.array([self.source_length or 0, self.context_length])
        if self.source_length is None:
            tokens, widths = tokens.sum(keepdims=True), widths[1:]
        return tuple((1 - tokens / (len(self) * widths)).tolist())


@dataclass(frozen=True)
class _TrainingPairs:
    packed: _Rows
    order: Any  # grain.MapDataset: the n-th row to train on -> its number
    batch_size: int
    rows: slice

    def __getitem__(self, step: int) -> Batch:
        numbers = range(step * self.batch_size, (step + 1) * self.batch_size)[self.rows]
        batch = self.packed.batch([int(self.order[number]) for number in numbers])
        return {name: value for name, value in batch.items() if name != "documents"}

    @property
    def note(self) -> str:
        """How well the rows are filled."""
        padding = " and ".join(f"{share:.1%}" for share in self.packed.padding())
        source_length, length = self.packed.source_length, self.packed.context_length
        widths = f"{length} tokens"
        if source_length is not None:
            widths = f"{source_length} source and {length} target tokens"
        pairs, rows = len(self.packed.packing.pairs), len(self.packed)
        return f"{pairs:,} pairs in {rows:,} rows of {widths}: padding {padding}"


def training_packed_pairs(
    split: ParallelSplit,
    *,
    source_length: int | None,
    context_length: int,
    batch_size: int,
    seed: int,
    truncate: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> _TrainingPairs:
    """Random access to batches: `batches[step]` is a pure function of (seed, step).

    Pairs are packed once, in pools that the seed decides; an epoch holds each row once, in an
    order of its own. Batches hold `source`, `source_segments`, `source_positions` [B, S] and
    `inputs`, `targets`, `weights`, `segments`, `positions` [B, T]: segment n of the targets
    belongs to segment n of the sources, segment 0 is padding, positions restart in each. A source
    is read with its end; inputs begin with the end that targets close with.

    Args:
      source_length: None for a model without an encoder: a pair is then one text, source, end,
        target, end, in which only the target and its end have weight.

    Raises:
      UserError: a text is longer than its row and `truncate` does not ask to cut it, or the batch
        does not divide over the processes.
    """
    import grain  # which imports jax, and takes most of a second

    order = np.random.default_rng(seed).permutation(len(split.origins))
    packed = _packed(split, source_length, context_length, truncate, order)
    rows = rows_of_process(batch_size, process_index, process_count)
    numbers = grain.MapDataset.range(len(packed)).shuffle(seed=seed).repeat()
    return _TrainingPairs(packed, numbers, batch_size, rows)


def _packed(split, source_length, context_length, truncate, order) -> _Rows:
    sides = _sides(split, source_length, context_length, truncate)
    if source_length is None:
        nothing = np.zeros_like(sides.source)
        packing = pack(nothing, sides.source + sides.target, 1, context_length, order)
    else:
        packing = pack(*sides, source_length, context_length, order)
    return _Rows(split, sides, packing, source_length, context_length)


@dataclass(frozen=True)
class _EvaluationPairs(Sequence[Batch]):
    packed: _Rows
    batch_size: int
    rows: slice

    def __len__(self) -> int:
        return -(-len(self.packed) // self.batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        numbers = range(index * self.batch_size, (index + 1) * self.batch_size)[self.rows]
        return self.packed.batch(numbers)


def evaluation_packed_pairs(
    split: ParallelSplit,
    *,
    source_length: int | None,
    context_length: int,
    batch_size: int,
    truncate: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Sequence[Batch]:
    """All batches of a split, in which each target has weight 1 exactly once.

    `documents` [B, T] names the pair of each target; the rest is as in training.

    Raises:
      UserError: as in training.
    """
    order = np.arange(len(split.origins))
    packed = _packed(split, source_length, context_length, truncate, order)
    rows = rows_of_process(batch_size, process_index, process_count)
    return _EvaluationPairs(packed, batch_size, rows)
