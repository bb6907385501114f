"""Examples with a label each, as batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
from lm_jax.data.dataset import Dataset
from lm_jax.data.documents import TokenizedDocuments
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.errors import UserError


class Draws(NamedTuple):
    """Random numbers of a training batch, drawn for all of its rows: processes agree on them."""

    rng: np.random.Generator
    batch_size: int
    slots: np.ndarray  # [R] int64: the rows of the global batch that are read

    def integers(self, high: int) -> np.ndarray:
        """Returns two integers from 0 to `high` - 1 a row, [2, R]."""
        return self.rng.integers(high, size=(2, self.batch_size))[:, self.slots]

    def coins(self) -> np.ndarray:
        """Returns a fair coin a row, bool [R]."""
        return (self.rng.random(self.batch_size) < 0.5)[self.slots]


# (indices of examples [R], random numbers or None when not training) -> what the model reads
Reader = Callable[[np.ndarray, Draws | None], Batch]


class Examples(NamedTuple):
    """One split: what is classified, and the class of each example."""

    inputs: Any  # images [N, H, W, C] uint8 or float32, or TokenizedDocuments
    targets: np.ndarray  # [N] int32

    @property
    def tokens(self) -> np.ndarray:
        """The stream of tokens of texts, [N]."""
        return self.inputs.tokens


LabelledSet = Dataset[Examples, Tokenizer | None]


def text_reader(documents: TokenizedDocuments, context_length: int) -> Reader:
    """Reads texts as `inputs` [R, T] and `segments` [R, T], which are 1 on text and 0 on padding.

    Only the beginning of a text longer than the context is read.
    """

    def read(indices: np.ndarray, draws: Draws | None) -> Batch:
        starts = documents.starts[indices] + 1
        lengths = documents.starts[indices + 1] - starts
        offsets = np.arange(context_length)
        is_text = offsets < lengths[:, None]
        positions = np.where(is_text, starts[:, None] + offsets, 0)
        tokens = np.where(is_text, documents.tokens[positions], 0)
        return {"inputs": tokens.astype(np.int32), "segments": is_text.astype(np.int32)}

    return read


def image_reader(images: np.ndarray, crop_padding: int = 0, flip: bool = False) -> Reader:
    """Reads images as `inputs` [R, H, W, C] float32, with pixels from 0 to 1.

    In training, images are padded by `crop_padding` zeros on each side and cropped at random; with
    `flip`, half of them are mirrored left to right (He et al. 2016, section 4.2).

    Raises:
      UserError: a crop of so much padding could hold nothing of an image.
    """
    height, width = images.shape[1:3]
    if crop_padding >= min(height, width):
        raise UserError(
            f"data.crop_padding is {crop_padding}, and images are {height} x {width}; pad by less"
        )

    def read(indices: np.ndarray, draws: Draws | None) -> Batch:
        chosen = images[indices]
        if draws is not None and crop_padding:
            chosen = _crop(chosen, crop_padding, *draws.integers(2 * crop_padding + 1))
        if draws is not None and flip:
            chosen = np.where(draws.coins()[:, None, None, None], chosen[:, :, ::-1], chosen)
        scale = 255 if chosen.dtype == np.uint8 else 1
        return {"inputs": chosen.astype(np.float32) / scale}

    return read


def _crop(images: np.ndarray, padding: int, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Returns images [R, H, W, C] padded by zeros and cropped to their size at (top, left) [R]."""
    count, height, width = images.shape[:3]
    frame = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    each = np.arange(count)[:, None, None]
    return np.pad(images, frame)[each, rows[:, :, None], columns[:, None, :]]


def training_examples(
    examples: Examples,
    read: Reader,
    *,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
) -> RandomAccessBatches:
    """Returns batches whose every epoch holds each example once, in an order of its own.

    Batches hold what `read` returns, `targets` [B] int32 and `weights` [B], all 1.

    Raises:
      UserError: the batch does not divide over the processes.
    """

    def make(rows: Rows) -> Batch:
        draws = Draws(np.random.default_rng((seed, rows.step)), batch_size, rows.slots)
        return read(rows.examples, draws) | _labels(examples, rows)

    return shuffled_batches(
        make,
        len(examples.targets),
        batch_size=batch_size,
        seed=seed,
        share=share,
    )


def evaluation_examples(
    examples: Examples,
    read: Reader,
    *,
    batch_size: int,
    share: Share = WHOLE,
) -> EvaluationBatches:
    """Returns all batches of a split, in which each example has weight 1 exactly once.

    `documents` [B] holds the index of each example; the rest is as in training.

    Raises:
      UserError: the batch does not divide over the processes.
    """

    def make(rows: Rows) -> Batch:
        index = {"documents": rows.examples.astype(np.int32)}
        return read(rows.examples, None) | _labels(examples, rows) | index

    return batches_in_order(
        make,
        len(examples.targets),
        batch_size=batch_size,
        share=share,
    )


def _labels(examples: Examples, rows: Rows) -> Batch:
    return {
        "targets": examples.targets[rows.examples],
        "weights": np.ones(len(rows.examples), np.float32),
    }
