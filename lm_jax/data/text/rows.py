"""Rows of a batch from a stream of tokens: windows across documents, or pieces of documents.

A stream is `end doc1 end doc2 end ... docD end`: the token that ends a document opens the next.
A document of n tokens therefore gives n + 1 targets, and a window of the stream wastes none.
"""

from typing import NamedTuple

import numpy as np

from lm_jax.data.batches import Batch, RowFunction, Rows
from lm_jax.data.documents import TokenizedDocuments


def next_token_rows(tokens: np.ndarray) -> Batch:
    """Returns windows [B, T + 1] as inputs and the targets that follow them."""
    tokens = tokens.astype(np.int32)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    return {"inputs": inputs, "targets": targets, "weights": np.ones(inputs.shape, np.float32)}


def segments_of(opens: np.ndarray) -> Batch:
    """Returns segments and positions of rows [B, T]; a document opens where `opens` is true."""
    width, firsts = opens.shape[1], np.arange(0, opens.size, opens.shape[1])
    # Segments begin where documents open, and where rows do: there are few, so this is quick.
    begins = opens.copy()
    begins[:, 0] = True
    bounds = np.flatnonzero(begins)
    lengths = np.diff(bounds, append=opens.size)
    rank = np.arange(len(bounds)) - np.searchsorted(bounds, firsts)[bounds // width]
    numbers = (1 + rank + opens[bounds // width, 0]).astype(np.int32)
    positions = np.arange(opens.size, dtype=np.int32) - np.repeat(bounds.astype(np.int32), lengths)
    segments = np.repeat(numbers, lengths)
    return {"segments": segments.reshape(opens.shape), "positions": positions.reshape(opens.shape)}


class Pieces(NamedTuple):
    """Windows of single documents, to be packed into rows; each array is [P]."""

    document: np.ndarray
    start: np.ndarray  # position in the stream of the first input
    length: np.ndarray
    skip: np.ndarray  # leading targets that an earlier window has counted


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


def cut_documents(
    documents: TokenizedDocuments,
    context_length: int,
    stride: int,
    windows: Windows = WINDOWS["documents"],
) -> Pieces:
    """Returns each document in windows from its own start, every `stride` tokens."""
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
    return Pieces(document, start, length, skip)


def rows_of_pieces(
    documents: TokenizedDocuments, pieces: Pieces, firsts: np.ndarray, context_length: int
) -> RowFunction:
    """Returns a row function of pieces that share rows, kept apart by `segments` and `positions`.

    `weights` are 1 where a target counts. `documents` [B, T] holds the index of each target's
    document; padding has segment 0.

    Args:
      firsts: the first piece of each row, and the end; [R + 1].
    """

    def make(rows: Rows) -> Batch:
        shape = (len(rows.examples), context_length)
        names = ("inputs", "targets", "segments", "positions", "documents")
        batch = {name: np.zeros(shape, np.int32) for name in names}
        batch["weights"] = np.zeros(shape, np.float32)
        row, number, at = _places(pieces, firsts, rows)
        length = pieces.length[number]
        within = _count_up(length)

        def fill(name: str, values: np.ndarray) -> None:
            batch[name].reshape(-1)[where] = values

        where = np.repeat(row * context_length + at, length) + within
        position = np.repeat(pieces.start[number], length) + within
        fill("inputs", documents.tokens[position])
        fill("targets", documents.tokens[position + 1])
        fill("weights", within >= np.repeat(pieces.skip[number], length))
        fill("positions", within)
        fill("segments", np.repeat(number - firsts[rows.examples][row] + 1, length))
        fill("documents", np.repeat(pieces.document[number], length))
        return batch

    return make


def _places(
    pieces: Pieces, firsts: np.ndarray, rows: Rows
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the row of a batch, the number and the first column of each piece in it, [K] each."""
    first, end = firsts[rows.examples], firsts[rows.examples + 1]
    counts = np.where(rows.is_padding, 0, end - first)
    row = np.repeat(np.arange(len(counts)), counts)
    number = first[row] + _count_up(counts)
    lengths = pieces.length[number]
    at = np.cumsum(lengths) - lengths
    opens = np.cumsum(counts) - counts  # of each row among the pieces
    return row, number, at - at[opens[row]]


def _count_up(counts: np.ndarray) -> np.ndarray:
    """Returns 0 to n - 1 for each n of the counts, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
