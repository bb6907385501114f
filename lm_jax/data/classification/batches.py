"""Examples with a label each, as batches: a pure function of (seed, step) for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.documents import Batch, TokenizedDocuments, rows_of_process

# (indices [B], random numbers or None when not training) -> what the model reads
Reader = Callable[[np.ndarray, np.random.Generator | None], Batch]


class Examples(NamedTuple):
    """One split: what is to be classified, and the class of each."""

    inputs: Any  # images [N, H, W, C] uint8 or float32, or TokenizedDocuments
    targets: np.ndarray  # [N] int32


class LabelledSet(NamedTuple):
    """Both splits, the names of the classes, and what a reader should know of them."""

    labels: list[str]
    train: Examples
    validation: Examples
    description: dict[str, Any]
    tokenizer: Any = None  # of texts


def text_reader(documents: TokenizedDocuments, context_length: int) -> Reader:
    """Reads texts as `inputs` [B, T] and `segments` [B, T], which are 1 on text and 0 on padding.

    Of a text longer than the context only the beginning is read.
    """

    def read(indices: np.ndarray, rng: np.random.Generator | None) -> Batch:
        starts = documents.starts[indices] + 1
        lengths = documents.starts[indices + 1] - starts
        offsets = np.arange(context_length)
        is_text = offsets < lengths[:, None]
        places = np.where(is_text, starts[:, None] + offsets, 0)
        tokens = np.where(is_text, documents.tokens[places], 0)
        return {"inputs": tokens.astype(np.int32), "segments": is_text.astype(np.int32)}

    return read


def image_reader(images: np.ndarray, crop_padding: int = 0, flip: bool = False) -> Reader:
    """Reads images as `inputs` [B, H, W, C] float32, bytes as numbers from 0 to 1.

    In training they are cropped at random out of a frame of `crop_padding` zeros, and every other
    one is turned left to right when `flip` says so (He et al. 2016, section 4.2).
    """

    def read(indices: np.ndarray, rng: np.random.Generator | None) -> Batch:
        chosen = images[indices]
        if rng is not None and crop_padding:
            chosen = _random_crops(chosen, crop_padding, rng)
        if rng is not None and flip:
            turned = rng.random(len(chosen)) < 0.5
            chosen = np.where(turned[:, None, None, None], chosen[:, :, ::-1], chosen)
        scale = 255 if chosen.dtype == np.uint8 else 1
        return {"inputs": chosen.astype(np.float32) / scale}

    return read


def _random_crops(images: np.ndarray, padding: int, rng: np.random.Generator) -> np.ndarray:
    count, height, width = images.shape[:3]
    frame = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    top, left = rng.integers(2 * padding + 1, size=(2, count))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    each = np.arange(count)[:, None, None]
    return np.pad(images, frame)[each, rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True)
class _TrainingExamples:
    targets: np.ndarray
    read: Reader
    order: Any  # grain.MapDataset: the n-th example to train on -> its index
    batch_size: int
    rows: slice
    seed: int

    def __getitem__(self, step: int) -> Batch:
        numbers = range(step * self.batch_size, (step + 1) * self.batch_size)
        indices = np.array([self.order[number] for number in numbers])
        # Drawn for the whole batch, so that it does not depend on the number of processes.
        batch = self.read(indices, np.random.default_rng((self.seed, step)))
        batch |= {"targets": self.targets[indices], "weights": np.ones(len(indices), np.float32)}
        return {name: value[self.rows] for name, value in batch.items()}


def training_examples(
    examples: Examples,
    read: Reader,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> _TrainingExamples:
    """Random access to batches: `batches[step]` is a pure function of (seed, step).

    Every epoch holds each example once, in an order of its own.

    Raises:
      UserError: the batch does not divide over the processes.
    """
    import grain  # which imports jax, and takes most of a second

    order = grain.MapDataset.range(len(examples.targets)).shuffle(seed=seed).repeat()
    rows = rows_of_process(batch_size, process_index, process_count)
    return _TrainingExamples(examples.targets, read, order, batch_size, rows, seed)


@dataclass(frozen=True)
class _EvaluationExamples(Sequence[Batch]):
    targets: np.ndarray
    read: Reader
    batch_size: int
    rows: slice

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        numbers = np.arange(index * self.batch_size, (index + 1) * self.batch_size)[self.rows]
        is_example = numbers < len(self.targets)  # the last batch is filled up without weight
        numbers = np.where(is_example, numbers, 0)
        return self.read(numbers, None) | {
            "targets": self.targets[numbers],
            "weights": is_example.astype(np.float32),
            "documents": numbers.astype(np.int32),
        }


def evaluation_examples(
    examples: Examples,
    read: Reader,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Sequence[Batch]:
    """All batches of a split, in which each example has weight 1 exactly once."""
    rows = rows_of_process(batch_size, process_index, process_count)
    return _EvaluationExamples(examples.targets, read, batch_size, rows)
