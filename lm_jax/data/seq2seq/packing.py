"""Pairs of a source and a target as batches, several to a row, so that all rows have one shape.

An encoder-decoder reads sources and targets in separate rows. A model without an encoder reads each
pair as one text, source, end, target, end, in which only the target has weight.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lm_jax.data.batches import (
    WHOLE,
    Batch,
    EvaluationBatches,
    RandomAccessBatches,
    Rows,
    Share,
    batches_in_order,
    shuffled_batches,
)
from lm_jax.data.documents import TokenizedDocuments
from lm_jax.data.seq2seq.parallel_corpus import ParallelSplit
from lm_jax.errors import UserError
from lm_jax.plurals import counted

_POOL = 4096  # pairs that are sorted and packed together
_READ = ("source", "source_segments", "source_positions")
_WRITTEN = ("inputs", "targets", "segments", "positions", "documents")


class _Sides(NamedTuple):
    """Number of tokens that are read of each pair, ends included; int64 [N]."""

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
    """Returns the sides of pairs that are one text each; in a cut text neither keeps over half."""
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
    """Row r holds pairs[firsts[r] : firsts[r + 1]]."""

    pairs: np.ndarray
    firsts: np.ndarray


def pack(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    source_length: int,
    context_length: int,
    order: np.ndarray,
) -> _Packing:
    """Packs pairs into rows in which both sides fit.

    Pools of 4,096 pairs are taken in `order`. Within a pool, the longest pair comes first and each
    goes to the first row that has space (first-fit decreasing, Johnson 1973).
    """
    sizes = np.stack([source_lengths / source_length, target_lengths / context_length], axis=1)
    rows: list[list[int]] = []
    for first in range(0, len(order), _POOL):
        pool = order[first : first + _POOL]
        longest_first = pool[np.argsort(-sizes[pool].max(axis=1), kind="stable")]
        free = np.empty((2, len(pool)), np.int64)  # tokens left in each row, on both sides
        opened: list[list[int]] = []
        for pair in longest_first.tolist():
            source, target = source_lengths[pair], target_lengths[pair]
            fits = (free[0, : len(opened)] >= source) & (free[1, : len(opened)] >= target)
            row = int(fits.argmax()) if fits.any() else len(opened)
            if row == len(opened):
                opened.append([])
                free[:, row] = source_length, context_length
            opened[row].append(pair)
            free[:, row] -= source, target
        rows += opened
    firsts = np.cumsum([0, *map(len, rows)])
    return _Packing(np.array([pair for row in rows for pair in row], np.int64), firsts)


@dataclass(frozen=True)
class PackedPairs:
    """A row function of the pairs of a split, several to a row."""

    split: ParallelSplit
    sides: _Sides
    packing: _Packing
    source_length: int | None  # None: source and target are one text
    context_length: int

    def __len__(self) -> int:
        return len(self.packing.firsts) - 1

    def __call__(self, rows: Rows) -> Batch:
        """Returns the rows as a batch; rows of padding hold zeros."""
        shapes: list[tuple[tuple[str, ...], int]] = [(_WRITTEN, self.context_length)]
        if self.source_length is not None:
            shapes.append((_READ, self.source_length))
        batch = {
            name: np.zeros((len(rows.examples), width), np.int32)
            for names, width in shapes
            for name in names
        }
        batch["weights"] = np.zeros((len(rows.examples), self.context_length), np.float32)
        for index in np.flatnonzero(~rows.is_padding):
            row = {name: array[index] for name, array in batch.items()}
            self._fill(row, int(rows.examples[index]))
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
        """Returns the tokens of a text and its end; a text that was cut has an end as well."""
        start = documents.starts[number] + 1
        return np.append(documents.tokens[start : start + length - 1], documents.tokens[0])

    def padding(self) -> tuple[float, ...]:
        """Returns the share of padding in the rows of sources, if there are any, and of targets."""
        tokens = np.array([side.sum() for side in self.sides])
        widths = np.array([self.source_length or 0, self.context_length])
        if self.source_length is None:
            tokens, widths = tokens.sum(keepdims=True), widths[1:]
        return tuple((1 - tokens / (len(self) * widths)).tolist())

    @property
    def note(self) -> str:
        """The number of rows and their share of padding, for the log of a run."""
        padding = " and ".join(f"{share:.1%}" for share in self.padding())
        widths = f"{self.context_length} tokens"
        if self.source_length is not None:
            widths = f"{self.source_length} source and {self.context_length} target tokens"
        pairs, rows = counted(len(self.packing.pairs), "pair"), counted(len(self), "row")
        return f"{pairs} in {rows} of {widths}: padding {padding}"


def training_packed_pairs(
    split: ParallelSplit,
    *,
    source_length: int | None,
    context_length: int,
    batch_size: int,
    seed: int,
    truncate: bool = False,
    share: Share = WHOLE,
) -> RandomAccessBatches:
    """Returns batches of packed rows; an epoch holds each row once, in an order of its own.

    Pairs are packed once, in pools that the seed decides. Batches hold `source`,
    `source_segments`, `source_positions` [B, S] and `inputs`, `targets`, `weights`, `segments`,
    `positions` [B, T]. Segment n of the targets belongs to segment n of the sources, segment 0 is
    padding, and positions restart in each segment. Sources include their end; inputs begin with the
    token that ends targets.

    Args:
      source_length: None for a model without an encoder: a pair is then one text, source, end,
        target, end, in which only the target and its end have weight.

    Raises:
      UserError: a text is longer than its row and `truncate` does not ask to cut it, or the batch
        does not divide over the processes.
    """
    packed = pack_pairs(
        split,
        source_length=source_length,
        context_length=context_length,
        truncate=truncate,
        seed=seed,
    )

    def make(rows: Rows) -> Batch:
        batch = packed(rows)
        del batch["documents"]
        return batch

    return shuffled_batches(
        make,
        len(packed),
        batch_size=batch_size,
        seed=seed,
        share=share,
        note=packed.note,
    )


def pack_pairs(
    split: ParallelSplit,
    *,
    source_length: int | None,
    context_length: int,
    truncate: bool = False,
    seed: int | None = None,
) -> PackedPairs:
    """Returns the pairs of a split in rows, as `training_packed_pairs` describes them.

    Args:
      seed: decides which pairs are packed together; None: they are packed in their order.

    Raises:
      UserError: a text is longer than its row and `truncate` does not ask to cut it.
    """
    order = np.arange(len(split.origins))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(split.origins))
    sides = _sides(split, source_length, context_length, truncate)
    if source_length is None:
        nothing = np.zeros_like(sides.source)
        packing = pack(nothing, sides.source + sides.target, 1, context_length, order)
    else:
        packing = pack(*sides, source_length, context_length, order)
    return PackedPairs(split, sides, packing, source_length, context_length)


def evaluation_packed_pairs(
    split: ParallelSplit,
    *,
    source_length: int | None,
    context_length: int,
    batch_size: int,
    truncate: bool = False,
    share: Share = WHOLE,
) -> EvaluationBatches:
    """Returns all batches of a split, in which each target has weight 1 exactly once.

    `documents` [B, T] holds the index of each target's pair; the rest is as in training.

    Raises:
      UserError: as in training.
    """
    packed = pack_pairs(
        split, source_length=source_length, context_length=context_length, truncate=truncate
    )
    return batches_in_order(
        packed,
        len(packed),
        batch_size=batch_size,
        share=share,
    )
