"""Token streams as batches: a pure function of (seed, step) for training, of nothing to evaluate.

A stream is `end doc1 end doc2 end ... docD end`: the token that ends a document opens the next.
A document of n tokens therefore gives n + 1 targets, and a window of the stream wastes none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.documents import Batch, TokenizedDocuments, rows_of_process
from lm_jax.errors import UserError


@dataclass(frozen=True)
class _Windows:
    """Training windows: `batches[step]` gives this process's rows of a batch."""

    documents: TokenizedDocuments
    order: Any  # grain.MapDataset: the n-th window to train on -> its index in its epoch
    windows_per_epoch: int
    context_length: int
    batch_size: int
    rows: slice
    seed: int

    def __getitem__(self, step: int) -> Batch:
        time = self.context_length
        numbers = range(step * self.batch_size, (step + 1) * self.batch_size)[self.rows]
        epochs = [n // self.windows_per_epoch for n in numbers]
        phases = {epoch: self._phase(epoch) for epoch in set(epochs)}
        starts = np.array([phases[epoch] for epoch in epochs])
        starts += time * np.array([self.order[n] for n in numbers])
        window = self.documents.tokens[starts[:, None] + np.arange(time + 1)].astype(np.int32)
        inputs, targets = window[:, :-1], window[:, 1:]
        batch = {"inputs": inputs, "targets": targets, "weights": np.ones(inputs.shape, np.float32)}
        if len(self.documents.characters) == 1:
            return batch
        return batch | _segments(inputs == self.documents.tokens[0])

    def _phase(self, epoch: int) -> int:
        """Where in the stream the windows of an epoch begin, so that no two epochs cut alike."""
        spare = len(self.documents.tokens) - self.windows_per_epoch * self.context_length
        rng = np.random.default_rng((self.seed, epoch))
        return int(rng.integers(min(spare, self.context_length)))


def _segments(opens: np.ndarray) -> Batch:
    """Segments and positions of rows [B, T] in which a document opens where `opens` is true."""
    index = np.arange(opens.shape[1], dtype=np.int32)
    last_open = np.maximum.accumulate(np.where(opens, index, 0), axis=1)
    segments = 1 + np.cumsum(opens, axis=1, dtype=np.int32)
    return {"segments": segments, "positions": index - last_open}


def training_batches(
    documents: TokenizedDocuments,
    *,
    context_length: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> _Windows:
    """Random access to batches: `batches[step]` is a pure function of (seed, step).

    An epoch is the stream's disjoint windows in an order of its own, cut at a phase of its own.
    Batches hold `inputs`, `targets` [B, T] int32 and `weights` (all 1); where the split has
    several documents also `segments` and `positions`, which restart in each. The global batch does
    not depend on the number of processes; each reads its consecutive rows.

    Raises:
      UserError: the split is shorter than one window, or the batch does not divide.
    """
    import grain  # which imports jax, and takes most of a second

    spare = len(documents.tokens) - 1
    if spare < context_length:
        raise UserError(
            f"the training split has {spare} tokens to predict, fewer than one window of "
            f"model.context_length {context_length}; use more text or a shorter context"
        )
    windows = max(1, (len(documents.tokens) - context_length) // context_length)
    order = grain.MapDataset.range(windows).shuffle(seed=seed).repeat()
    rows = rows_of_process(batch_size, process_index, process_count)
    return _Windows(documents, order, windows, context_length, batch_size, rows, seed)


@dataclass(frozen=True)
class _Lanes:
    """Training windows that continue each other: row b of a batch follows row b of the last."""

    documents: TokenizedDocuments
    windows_per_lane: int
    context_length: int
    lanes: range
    seed: int

    def __getitem__(self, step: int) -> Batch:
        epoch, window = divmod(step, self.windows_per_lane)
        stream = self.documents.tokens
        phase = int(np.random.default_rng((self.seed, epoch)).integers(len(stream)))
        width = self.windows_per_lane * self.context_length
        starts = phase + width * np.array(self.lanes) + window * self.context_length
        places = starts[:, None] + np.arange(self.context_length + 1)
        # The stream opens and closes with the same token: its end is glued to its beginning.
        rows = stream[places % (len(stream) - 1)].astype(np.int32)
        inputs, targets = rows[:, :-1], rows[:, 1:]
        batch = {"inputs": inputs, "targets": targets, "weights": np.ones(inputs.shape, np.float32)}
        batch |= _segments(inputs == stream[0])
        if window == 0:  # the lanes of another epoch, or of another text, stopped elsewhere
            batch["segments"] = batch["segments"] + 1
        return batch


def training_lanes(
    documents: TokenizedDocuments,
    *,
    context_length: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> _Lanes:
    """Random access to batches whose rows go on where those of the last batch stopped.

    For truncated back-propagation through time with a carried state. The stream is cut into
    `batch_size` lanes, each epoch from a phase of its own; batches are as in `training_batches`,
    with `segments`, so that a state can be dropped where a document opens. The first batch of an
    epoch continues nothing: its segments are numbered from 2.

    Raises:
      UserError: a lane is shorter than one window, or the batch does not divide.
    """
    windows = (len(documents.tokens) - 1) // batch_size // context_length
    if windows < 1:
        raise UserError(
            f"the training split has {len(documents.tokens) - 1} tokens to predict, fewer than "
            f"one window of model.context_length {context_length} for each of {batch_size} lanes; "
            "use more text, a smaller batch or a shorter context"
        )
    rows = rows_of_process(batch_size, process_index, process_count)
    lanes = range(batch_size)[rows]
    return _Lanes(documents, windows, context_length, lanes, seed)


class _Pieces(NamedTuple):
    """Windows of single documents, to be packed into rows."""

    document: np.ndarray
    start: np.ndarray  # in the stream, of the first input
    length: np.ndarray
    skip: np.ndarray  # leading targets that an earlier window has counted


def _cut(documents: TokenizedDocuments, context_length: int, stride: int) -> _Pieces:
    targets = np.diff(documents.starts)
    counts = 1 + np.maximum(0, -(-(targets - context_length) // stride))
    document = np.repeat(np.arange(len(targets)), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = number * stride
    length = np.minimum(context_length, targets[document] - offset)
    skip = np.where(number == 0, 0, context_length - stride)
    return _Pieces(document, documents.starts[document] + offset, length, skip)


class _EvaluationRows(Sequence[Batch]):
    """Batches of rows, each a run of pieces that fit the context together."""

    def __init__(self, documents, pieces: _Pieces, context_length: int, batch_size: int, rows):
        self._documents, self._pieces, self._time = documents, pieces, context_length
        self._batch_size, self._rows = batch_size, rows
        firsts, used = [], context_length
        for index, length in enumerate(pieces.length.tolist()):
            if used + length > context_length:
                firsts.append(index)
                used = 0
            used += length
        self._firsts = [*firsts, len(pieces.length)]  # the first piece of each row, and the end

    def __len__(self) -> int:
        return -(-(len(self._firsts) - 1) // self._batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        numbers = range(index * self._batch_size, (index + 1) * self._batch_size)[self._rows]
        rows = [self._row(number) for number in numbers]
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        if len(self._documents.characters) == 1:
            del batch["segments"], batch["positions"]
        return batch

    def _row(self, number: int) -> Batch:
        names = ("inputs", "targets", "segments", "positions", "documents")
        row = {name: np.zeros(self._time, np.int32) for name in names}
        row["weights"] = np.zeros(self._time, np.float32)
        if number >= len(self._firsts) - 1:  # the last batch is filled up with rows of no weight
            return row
        at = 0
        for segment, piece in enumerate(range(self._firsts[number], self._firsts[number + 1]), 1):
            document, start, length, skip = (int(field[piece]) for field in self._pieces)
            here = slice(at, at + length)
            tokens = self._documents.tokens[start : start + length + 1]
            row["inputs"][here], row["targets"][here] = tokens[:-1], tokens[1:]
            row["weights"][at + skip : at + length] = 1
            row["segments"][here], row["documents"][here] = segment, document
            row["positions"][here] = np.arange(length)
            at += length
        return row


def evaluation_batches(
    documents: TokenizedDocuments,
    *,
    context_length: int,
    batch_size: int,
    stride: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Sequence[Batch]:
    """All batches of a split, in which each target of each document has weight 1 exactly once.

    A document is cut into windows from its own start, every `stride` tokens (None: disjoint, every
    `context_length`); a window counts the targets that no earlier one has, so that with a stride
    each has at least context_length - stride tokens before it, if the document does. Windows that
    fit one row share it, kept apart by `segments` and `positions`. `documents` [B, T] names the
    document of each target; the rest is as in training.
    """
    stride = stride or context_length
    if not 0 < stride <= context_length:
        raise UserError(
            f"a stride of {stride} with a context of {context_length} would leave tokens out; "
            "expected 0 < stride <= context"
        )
    rows = rows_of_process(batch_size, process_index, process_count)
    pieces = _cut(documents, context_length, stride)
    return _EvaluationRows(documents, pieces, context_length, batch_size, rows)
