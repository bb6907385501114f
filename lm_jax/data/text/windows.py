"""Token streams as batches of rows: training in shuffled or contiguous order, and evaluation."""

import numpy as np

from lm_jax.choices import choose
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
from lm_jax.data.text.packing import PACKINGS, told
from lm_jax.data.text.rows import (
    WINDOWS,
    Pieces,
    Windows,
    cut_documents,
    next_token_rows,
    rows_of_pieces,
    segments_of,
)
from lm_jax.errors import UserError
from lm_jax.plurals import counted


def training_batches(
    documents: TokenizedDocuments,
    *,
    context_length: int,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
    packing: str = "stream",
) -> RandomAccessBatches:
    """Returns batches of a stream's documents; an epoch holds each row once, in shuffled order.

    Batches hold `inputs`, `targets` [B, T] int32 and `weights` (0 for padding); where the split has
    several documents also `segments` and `positions`, which restart in each document.

    Args:
      packing: how documents fill rows; a key of `PACKINGS`.

    Raises:
      UserError: the split is shorter than one window, or the batch does not divide.
    """
    packed = choose(PACKINGS, packing, "data.packing")(documents, context_length, seed, None)
    return shuffled_batches(
        packed.make,
        packed.per_epoch,
        batch_size=batch_size,
        seed=seed,
        share=share,
        **told(packing, packed.waste),
    )


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
            f"the training split has {counted(len(documents.tokens) - 1, 'token')} to predict, "
            f"fewer than one window of model.context_length {context_length} for each of "
            f"{batch_size} contiguous streams; use more text, a smaller batch or a shorter context"
        )
    tokens = documents.tokens

    def make(rows: Rows) -> Batch:
        epoch, window = divmod(rows.step, windows)
        phase = int(np.random.default_rng((seed, epoch)).integers(len(tokens)))
        starts = phase + (windows * rows.slots + window) * context_length
        index = starts[:, None] + np.arange(context_length + 1)
        # The stream opens and closes with the same token: its end is glued to its beginning.
        batch = next_token_rows(tokens[index % (len(tokens) - 1)])
        batch |= segments_of(batch["inputs"] == tokens[0])
        if window == 0:  # the streams of the epoch before stopped elsewhere
            batch["segments"] = batch["segments"] + 1
        return batch

    slots = slots_of_process(batch_size, share)
    return RandomAccessBatches(make, batch_size, slots, rows_per_epoch=windows * batch_size)


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
    pieces = cut_documents(documents, context_length, stride, windows)
    firsts = _first_pieces(pieces, context_length)
    fill = rows_of_pieces(documents, pieces, firsts, context_length)

    def make(rows: Rows) -> Batch:
        batch = fill(rows)
        if len(documents.characters) == 1:
            del batch["segments"], batch["positions"]
        return batch

    return make, len(firsts) - 1


def _first_pieces(pieces: Pieces, context_length: int) -> np.ndarray:
    """Returns the first piece of each row, and the end: a row holds pieces that fit together."""
    firsts, used = [], context_length
    for index, length in enumerate(pieces.length.tolist()):
        if used + length > context_length:
            firsts.append(index)
            used = 0
        used += length
    return np.array([*firsts, len(pieces.length)])
