"""Pairs of a source and a target as batches: several to a row, so that one shape serves all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.batches import Batch, TokenizedDocuments, rows_of_process
from lm_jax.data.parallel_text import ParallelSplit

_POOL = 4096  # pairs that are sorted and packed together
_READ = ("source", "source_segments", "source_positions")
_WRITTEN = ("inputs", "targets", "segments", "positions", "documents")


class _Sides(NamedTuple):
    """How many tokens of each pair are read, its ends included: int64 [N]."""

    source: np.ndarray
    target: np.ndarray


def _sides(split: ParallelSplit, source_length: int, context_length: int, truncate: bool) -> _Sides:
    lengths = []
    for documents, longest, name, field in (
        (split.source, source_length, "source", "source_length"),
        (split.target, context_length, "target", "context_length"),
    ):
        found = np.diff(documents.starts)
        over = np.flatnonzero(found > longest)
        if len(over) and not truncate:
            first = over[0]
            raise ValueError(
                f"{split.origins[first]}: a {name} of {found[first]:,} tokens is longer than "
                f"model.{field} {longest} (so are {len(over) - 1:,} more); raise it, leave long "
                "pairs out with data.longest_characters, or set data.truncate=true"
            )
        lengths.append(np.minimum(found, longest))
    return _Sides(*lengths)


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
    source_length: int
    context_length: int

    def __len__(self) -> int:
        return len(self.packing.firsts) - 1

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The rows of these numbers; rows beyond the last are of no weight."""
        batch = {
            name: np.zeros((len(numbers), width), np.int32)
            for names, width in ((_READ, self.source_length), (_WRITTEN, self.context_length))
            for name in names
        }
        for index, number in enumerate(numbers):
            if number < len(self):
                self._fill({name: array[index] for name, array in batch.items()}, number)
        batch["weights"] = (batch["segments"] > 0).astype(np.float32)
        return batch

    def _fill(self, row: Batch, number: int) -> None:
        first, last = self.packing.firsts[number : number + 2]
        read = written = 0
        for segment, pair in enumerate(self.packing.pairs[first:last].tolist(), 1):
            tokens = self._ended(self.split.source, pair, int(self.sides.source[pair]))
            here = slice(read, read + len(tokens))
            row["source"][here], row["source_segments"][here] = tokens, segment
            row["source_positions"][here] = np.arange(len(tokens))
            read = here.stop
            tokens = self._ended(self.split.target, pair, int(self.sides.target[pair]))
            here = slice(written, written + len(tokens))
            row["targets"][here], row["segments"][here] = tokens, segment
            row["inputs"][here] = np.append(tokens[-1], tokens[:-1])
            row["positions"][here] = np.arange(len(tokens))
            row["documents"][here] = pair
            written = here.stop

    @staticmethod
    def _ended(documents: TokenizedDocuments, number: int, length: int) -> np.ndarray:
        """The tokens of a text and its end, which a text that was cut has as well."""
        start = documents.starts[number] + 1
        return np.append(documents.tokens[start : start + length - 1], documents.tokens[0])

    def padding(self) -> tuple[float, float]:
        """The share of the rows that holds no token, of the sources and of the targets."""
        return (
            1 - float(self.sides.source.sum()) / (len(self) * self.source_length),
            1 - float(self.sides.target.sum()) / (len(self) * self.context_length),
        )


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
        source, target = self.packed.padding()
        pairs = len(self.packed.packing.pairs)
        return (
            f"{pairs:,} pairs in {len(self.packed):,} rows of {self.packed.source_length} source "
            f"and {self.packed.context_length} target tokens: padding {source:.1%} and {target:.1%}"
        )


def training_packed_pairs(
    split: ParallelSplit,
    *,
    source_length: int,
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

    Raises:
      ValueError: a text is longer than its row and `truncate` does not ask to cut it, or the batch
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
    source_length: int,
    context_length: int,
    batch_size: int,
    truncate: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Sequence[Batch]:
    """All batches of a split, in which each target has weight 1 exactly once.

    `documents` [B, T] names the pair of each target; the rest is as in training.

    Raises:
      ValueError: as in training.
    """
    order = np.arange(len(split.origins))
    packed = _packed(split, source_length, context_length, truncate, order)
    rows = rows_of_process(batch_size, process_index, process_count)
    return _EvaluationPairs(packed, batch_size, rows)
