"""How the documents of a training split fill rows: as windows of one stream, or packed whole."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypedDict

import numpy as np

from lm_jax.data.batches import Batch, RowFunction, Rows
from lm_jax.data.documents import TokenizedDocuments
from lm_jax.data.text.rows import (
    Pieces,
    cut_documents,
    next_token_rows,
    rows_of_pieces,
    segments_of,
)
from lm_jax.errors import UserError
from lm_jax.plurals import counted

_BUFFER = 1 << 16  # pieces that are packed together


class Waste(NamedTuple):
    """What a way to fill rows costs."""

    padding: float  # share of the columns of all rows
    truncated_documents: float  # share of the documents whose tokens stand in several rows

    def __str__(self) -> str:
        return f"{self.padding:.1%} padding, {self.truncated_documents:.1%} of documents cut"


class PackedRows(NamedTuple):
    """The rows of an epoch of training."""

    make: RowFunction
    per_epoch: int
    waste: Waste


Packing = Callable[[TokenizedDocuments, int, int, bool | None], PackedRows]
"""(documents, context length, seed, whether rows have `segments`; None: if there are several
documents) -> the rows of an epoch."""


def stream_rows(
    documents: TokenizedDocuments, context_length: int, seed: int, is_parted: bool | None = None
) -> PackedRows:
    """Returns disjoint windows of the stream, which each epoch cuts at a phase of its own.

    Rows hold no padding. A document is cut where a window ends, whatever its length.

    Raises:
      UserError: the split is shorter than one window.
    """
    is_parted = len(documents.characters) > 1 if is_parted is None else is_parted
    num_targets = len(documents.tokens) - 1
    if num_targets < context_length:
        raise UserError(
            f"the training split has {counted(num_targets, 'token')} to predict, fewer than one "
            f"window of model.context_length {context_length}; use more text or a shorter context"
        )
    count = max(1, (len(documents.tokens) - context_length) // context_length)
    windows = np.lib.stride_tricks.sliding_window_view(documents.tokens, context_length + 1)
    spare = len(documents.tokens) - count * context_length

    @lru_cache(maxsize=8)
    def phase(epoch: int) -> int:
        """Returns where an epoch's windows begin in the stream: no two epochs cut alike."""
        return int(np.random.default_rng((seed, epoch)).integers(min(spare, context_length)))

    def make(rows: Rows) -> Batch:
        epochs = rows.numbers // count
        starts = np.array([phase(epoch) for epoch in epochs.tolist()])
        starts += context_length * rows.examples
        batch = next_token_rows(windows[starts])
        if not is_parted:
            return batch
        return batch | segments_of(batch["inputs"] == documents.tokens[0])

    # A window's end falls between two of n targets at n - 1 of the T phases.
    cut = np.minimum(1, (np.diff(documents.starts) - 1) / context_length)
    return PackedRows(make, count, Waste(0.0, float(cut.mean())))


def best_fit_rows(
    documents: TokenizedDocuments, context_length: int, seed: int, is_parted: bool | None = None
) -> PackedRows:
    """Returns rows of whole documents: Best-fit Packing (Ding et al. 2024, section 3).

    A document is cut only where it is longer than a row. Pieces come in an order that the seed
    decides. `_BUFFER` of them at a time are packed, the longest first, each into the fullest row
    that it fits. What stays free is padding, of weight 0 and segment 0. All epochs hold the same
    rows.
    """
    is_parted = len(documents.characters) > 1 if is_parted is None else is_parted
    pieces = cut_documents(documents, context_length, context_length)
    order = np.random.default_rng(seed).permutation(len(pieces.length))
    packed, sizes = [], []
    for first in range(0, len(order), _BUFFER):
        buffer = order[first : first + _BUFFER]
        for row in best_fit(pieces.length[buffer], context_length):
            packed.append(buffer[row])
            sizes.append(len(row))
    firsts = np.append(0, np.cumsum(sizes))
    ordered = Pieces(*(values[np.concatenate(packed)] for values in pieces))
    fill = rows_of_pieces(documents, ordered, firsts, context_length)

    def make(rows: Rows) -> Batch:
        batch = fill(rows)
        for name in ["documents"] if is_parted else ["documents", "segments", "positions"]:
            del batch[name]
        return batch

    targets = np.diff(documents.starts)
    padding = 1 - float(targets.sum()) / (len(sizes) * context_length)
    return PackedRows(make, len(sizes), Waste(padding, float((targets > context_length).mean())))


class Told(TypedDict):
    """What a log says of batches, and what a run records of them."""

    note: str
    facts: dict[str, Any]


def told(packing: str, waste: Waste) -> Told:
    """Returns what a run tells of its rows."""
    return {
        "note": f"rows: {packing}, {waste}",
        "facts": {"packing": {"kind": packing, **waste._asdict()}},
    }


def told_by_source(packing: str, wastes: Mapping[str, Waste]) -> Told:
    """Returns what a run tells of its rows, whose sources waste each a part of their own."""
    parts = "; ".join(f"{name}: {waste}" for name, waste in wastes.items())
    by_source = {name: waste._asdict() for name, waste in wastes.items()}
    return {
        "note": f"rows: {packing}; {parts}",
        "facts": {"packing": {"kind": packing, "sources": by_source}},
    }


PACKINGS: dict[str, Packing] = {"stream": stream_rows, "best_fit": best_fit_rows}


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Returns which of these lengths share a row: best-fit decreasing.

    The longest come first. Each goes into a row that it leaves least room in, or into a new one.
    """
    rows: list[list[int]] = []
    # Rows by the room that is left in them. Bit n of `rooms` says that there is one with room n.
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    order = np.argsort(-lengths, kind="stable")
    for number, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            rows[row].append(number)
        else:
            room, row = capacity, len(rows)
            rows.append([number])
        if left := room - length:
            with_room[left].append(row)
            rooms |= 1 << left
    return rows
