"""Token streams as batches of windows: training in shuffled or contiguous order, and evaluation.

A stream is `end doc1 end doc2 end ... docD end`: the token that ends a document opens the next.
A document of n tokens therefore gives n + 1 targets, and a window of the stream wastes none.
"""

from typing import NamedTuple

import numpy as np

from lm_jax.data.batches import (
    WHOLE,
    Batch,
    EvaluationBatches,
    RandomAccessBatches,
    RowFunction,
    Rows,
    Share,
    batches_in_order,
    shuffled_batches,
    slots_of_process,
)
from lm_jax.data.documents import TokenizedDocuments
from lm_jax.errors import UserError


class Windows(NamedTuple):
    """What is predicted of a document, and from what."""

    begins: bool  # the end of the document before is read, from which the first token is predicted
    ends: bool  # its own end is predicted
    is_full: bool  # the last window begins early enough to be as long as the others


WINDOWS = {
    "documents": Windows(begins=True, ends=True, is_full=False),
    "bare": Windows(begins=False, ends=False, is_full=False),
    "rolling": Windows(begins=True, ends=False, is_full=True),
}


def training_batches(
    documents: TokenizedDocuments,
    *,
    context_length: int,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
) -> RandomAccessBatches:
    """Returns batches of windows of a stream; an epoch holds disjoint windows in shuffled order.

    Each epoch cuts the stream at a phase of its own. Batches hold `inputs`, `targets` [B, T] int32
    and `weights` (all 1); where the split has several documents also `segments` and `positions`,
    which restart in each document.

    Raises:
      UserError: the split is shorter than one window, or the batch does not divide.
    """
    rows, count = shuffled_windows(documents, context_length, seed)
    return shuffled_batches(
        rows,
        count,
        batch_size=batch_size,
        seed=seed,
        share=share,
    )


def shuffled_windows(
    documents: TokenizedDocuments, context_length: int, seed: int, is_parted: bool | None = None
) -> tuple[RowFunction, int]:
    """Returns a row function of windows of a stream, and the number of windows in an epoch.

    Args:
      is_parted: whether batches have `segments`; None: if there are several documents.

    Raises:
      UserError: the split is shorter than one window.
    """
    is_parted = len(documents.characters) > 1 if is_parted is None else is_parted
    num_targets = len(documents.tokens) - 1
    if num_targets < context_length:
        raise UserError(
            f"the training split has {num_targets} tokens to predict, fewer than one window of "
            f"model.context_length {context_length}; use more text or a shorter context"
        )
    count = max(1, (len(documents.tokens) - context_length) // context_length)
    spare = len(documents.tokens) - count * context_length

    def phase(epoch: int) -> int:
        """Returns where an epoch's windows begin in the stream: no two epochs cut alike."""
        return int(np.random.default_rng((seed, epoch)).integers(min(spare, context_length)))

    def make(rows: Rows) -> Batch:
        epochs = rows.numbers // count
        phases = {epoch: phase(epoch) for epoch in set(epochs.tolist())}
        starts = np.array([phases[epoch] for epoch in epochs.tolist()])
        starts += context_length * rows.examples
        tokens = documents.tokens[starts[:, None] + np.arange(context_length + 1)]
        batch = _next_token_batch(tokens)
        if not is_parted:
            return batch
        return batch | _segments(batch["inputs"] == documents.tokens[0])

    return make, count


def _next_token_batch(tokens: np.ndarray) -> Batch:
    """Returns windows [B, T + 1] as inputs and the targets that follow them."""
    tokens = tokens.astype(np.int32)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    return {"inputs": inputs, "targets": targets, "weights": np.ones(inputs.shape, np.float32)}


def _segments(opens: np.ndarray) -> Batch:
    """Returns segments and positions of rows [B, T]; a document opens where `opens` is true."""
    index = np.arange(opens.shape[1], dtype=np.int32)
    last_open = np.maximum.accumulate(np.where(opens, index, 0), axis=1)
    segments = 1 + np.cumsum(opens, axis=1, dtype=np.int32)
    return {"segments": segments, "positions": index - last_open}


def contiguous_batches(
    documents: TokenizedDocuments,
    *,
    context_length: int,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
) -> RandomAccessBatches:
    """Returns batches in which row b continues row b of the batch before.

    They serve truncated back-propagation through time with a carried state. The stream is cut into
    `batch_size` contiguous streams, at a phase of its own in each epoch. Batches are as in
    `training_batches` and always have `segments`, so that a state can be dropped where a document
    opens. The first batch of an epoch continues nothing: its segments are numbered from 2.

    Raises:
      UserError: a contiguous stream is shorter than one window, or the batch does not divide.
    """
    windows = (len(documents.tokens) - 1) // batch_size // context_length
    if windows < 1:
        raise UserError(
            f"the training split has {len(documents.tokens) - 1} tokens to predict, fewer than "
            f"one window of model.context_length {context_length} for each of {batch_size} "
            "contiguous streams; use more text, a smaller batch or a shorter context"
        )
    tokens = documents.tokens

    def make(rows: Rows) -> Batch:
        epoch, window = divmod(rows.step, windows)
        phase = int(np.random.default_rng((seed, epoch)).integers(len(tokens)))
        starts = phase + (windows * rows.slots + window) * context_length
        index = starts[:, None] + np.arange(context_length + 1)
        # The stream opens and closes with the same token: its end is glued to its beginning.
        batch = _next_token_batch(tokens[index % (len(tokens) - 1)])
        batch |= _segments(batch["inputs"] == tokens[0])
        if window == 0:  # the streams of the epoch before stopped elsewhere
            batch["segments"] = batch["segments"] + 1
        return batch

    slots = slots_of_process(batch_size, share)
    return RandomAccessBatches(make, batch_size, slots, rows_per_epoch=windows * batch_size)


class _Pieces(NamedTuple):
    """Windows of single documents, to be packed into rows; each array is [P]."""

    document: np.ndarray
    start: np.ndarray  # position in the stream of the first input
    length: np.ndarray
    skip: np.ndarray  # leading targets that an earlier window has counted


def _cut(
    documents: TokenizedDocuments, context_length: int, stride: int, windows: Windows
) -> _Pieces:
    omitted = (not windows.begins) + (not windows.ends)
    targets = np.maximum(np.diff(documents.starts) - omitted, 0)
    counts = 1 + np.maximum(0, -(-(targets - context_length) // stride))
    document = np.repeat(np.arange(len(targets)), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = number * stride
    length = np.minimum(context_length, targets[document] - offset)
    skip = np.where(number == 0, 0, context_length - stride)
    if windows.is_full:
        earlier = np.where(number == 0, 0, context_length - length)
        offset, length, skip = offset - earlier, length + earlier, skip + earlier
    start = documents.starts[document] + (not windows.begins) + offset
    return _Pieces(document, start, length, skip)


def evaluation_batches(
    documents: TokenizedDocuments,
    *,
    context_length: int,
    batch_size: int,
    stride: int | None = None,
    windows: Windows = WINDOWS["documents"],
    share: Share = WHOLE,
) -> EvaluationBatches:
    """Returns all batches of a split, in which each target has weight 1 exactly once.

    A document is cut into windows from its own start, every `stride` tokens (None: disjoint, every
    `context_length`). A window counts the targets that no earlier one has counted, so that with a
    stride each has at least context_length - stride tokens before it, if the document does.
    Windows that fit one row share it, kept apart by `segments` and `positions`. `documents` [B, T]
    holds the index of each target's document; the rest is as in training.

    Raises:
      UserError: the stride would leave tokens out, or the batch does not divide.
    """
    rows, count = packed_windows(documents, context_length, stride or context_length, windows)
    return batches_in_order(
        rows,
        count,
        batch_size=batch_size,
        share=share,
    )


def packed_windows(
    documents: TokenizedDocuments,
    context_length: int,
    stride: int,
    windows: Windows = WINDOWS["documents"],
) -> tuple[RowFunction, int]:
    """Returns a row function of the windows of `evaluation_batches`, and the number of rows.

    Raises:
      UserError: the stride would leave tokens out.
    """
    if not 0 < stride <= context_length:
        raise UserError(
            f"a stride of {stride} with a context of {context_length} would leave tokens out; "
            "expected 0 < stride <= context"
        )
    pieces = _cut(documents, context_length, stride, windows)
    firsts = _first_pieces(pieces, context_length)

    def fill(row: Batch, number: int) -> None:
        at = 0
        for segment, piece in enumerate(range(firsts[number], firsts[number + 1]), 1):
            document, start, length, skip = (int(field[piece]) for field in pieces)
            here = slice(at, at + length)
            tokens = documents.tokens[start : start + length + 1]
            row["inputs"][here], row["targets"][here] = tokens[:-1], tokens[1:]
            row["weights"][at + skip : at + length] = 1
            row["segments"][here], row["documents"][here] = segment, document
            row["positions"][here] = np.arange(length)
            at += length

    def make(rows: Rows) -> Batch:
        shape = (len(rows.examples), context_length)
        names = ("inputs", "targets", "segments", "positions", "documents")
        batch = {name: np.zeros(shape, np.int32) for name in names}
        batch["weights"] = np.zeros(shape, np.float32)
        for index in np.flatnonzero(~rows.is_padding):
            row = {name: array[index] for name, array in batch.items()}
            fill(row, int(rows.examples[index]))
        if len(documents.characters) == 1:
            del batch["segments"], batch["positions"]
        return batch

    return make, len(firsts) - 1


def _first_pieces(pieces: _Pieces, context_length: int) -> list[int]:
    """Returns the first piece of each row, and the end: a row holds pieces that fit together."""
    firsts, used = [], context_length
    for index, length in enumerate(pieces.length.tolist()):
        if used + length > context_length:
            firsts.append(index)
            used = 0
        used += length
    return [*firsts, len(pieces.length)]
