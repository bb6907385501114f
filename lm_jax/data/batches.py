"""Random access to batches, the same for every kind of data: an order and a row function.

A row function makes the rows that one process needs of one global batch. It gets `Rows`, which say
where the rows stand in the batch and in the run, and which examples they hold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError

Batch = dict[str, np.ndarray]
_NOTHING: Mapping[str, Any] = {}


class Share(NamedTuple):
    """The rows of every global batch that one process makes: one of `processes` equal parts."""

    process: int = 0
    processes: int = 1


WHOLE = Share()


class Rows(NamedTuple):
    """The rows of one process in one global batch; each array is [R]."""

    step: int
    slots: np.ndarray  # positions in the global batch, int64
    numbers: np.ndarray  # positions in the run: step * batch_size + slots
    examples: np.ndarray  # indices of the examples that the rows hold
    is_padding: np.ndarray  # bool: rows that fill up the last batch of an evaluation


RowFunction = Callable[[Rows], Batch]


Order = Callable[[np.ndarray], np.ndarray]
"""Positions of rows in the run, int64 [R] -> their examples."""


def shuffled_order(num_examples: int, seed: int) -> Order:
    """Returns an order in which every epoch holds each example once, as grain shuffles them.

    It is that of `grain.MapDataset.range(num_examples).shuffle(seed).repeat()`, in a third of the
    time.
    """
    from grain.experimental import index_shuffle  # imports jax, which takes most of a second

    def order(positions: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(positions, num_examples)
        seeds = (seed + epochs) % 2**32
        last, rounds = num_examples - 1, 4
        pairs = zip(places.tolist(), seeds.tolist(), strict=True)
        return np.array([index_shuffle(place, last, own, rounds) for place, own in pairs], np.int64)

    return order


@dataclass(frozen=True)
class RandomAccessBatches:
    """Training batches without an end: `batches[step]` is a pure function of (seed, step).

    The global batch does not depend on the number of processes; each makes consecutive rows of it.
    """

    rows: RowFunction
    batch_size: int
    slots: range  # the rows of a global batch that this process makes
    order: Order | None = None  # None: the identity
    rows_per_epoch: int | None = None  # None: rows are drawn at random
    note: str = ""  # what a log should say of these batches
    facts: Mapping[str, Any] = field(default_factory=dict)  # what a run records of them

    def __getitem__(self, step: int) -> Batch:
        slots = np.array(self.slots, np.int64)
        numbers = step * self.batch_size + slots
        examples = numbers
        if self.order is not None:
            examples = self.order(numbers)
        return self.rows(Rows(step, slots, numbers, examples, np.zeros(len(slots), bool)))


def batches_by_position(
    rows: RowFunction,
    *,
    batch_size: int,
    share: Share = WHOLE,
    note: str = "",
    facts: Mapping[str, Any] = _NOTHING,
) -> RandomAccessBatches:
    """Returns batches whose row function finds its examples by `Rows.numbers`.

    Raises:
      UserError: the batch does not divide over the processes.
    """
    slots = slots_of_process(batch_size, share)
    return RandomAccessBatches(rows, batch_size, slots, note=note, facts=facts)


def shuffled_batches(
    rows: RowFunction,
    num_examples: int,
    *,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
    note: str = "",
    facts: Mapping[str, Any] = _NOTHING,
) -> RandomAccessBatches:
    """Returns batches whose every epoch holds each example once, in an order of its own.

    Raises:
      UserError: the batch does not divide over the processes.
    """
    order = shuffled_order(num_examples, seed)
    slots = slots_of_process(batch_size, share)
    return RandomAccessBatches(rows, batch_size, slots, order, num_examples, note, facts)


@dataclass(frozen=True)
class EvaluationBatches:
    """All examples of a split once, in their order; the last batch is padded with weightless rows.

    A row function may put anything into a row of padding: its `weights` are set to 0 here. Where a
    row of padding needs an example, it is example 0.
    """

    rows: RowFunction
    num_examples: int
    batch_size: int
    slots: range  # the rows of a global batch that this process makes

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        slots = np.array(self.slots, np.int64)
        numbers = index * self.batch_size + slots
        is_padding = numbers >= self.num_examples
        examples = np.where(is_padding, 0, numbers)
        batch = self.rows(Rows(index, slots, numbers, examples, is_padding))
        batch["weights"][is_padding] = 0
        return batch


def batches_in_order(
    rows: RowFunction,
    num_examples: int,
    *,
    batch_size: int,
    share: Share = WHOLE,
) -> EvaluationBatches:
    """Returns all batches of a split, in which each example occurs exactly once.

    Raises:
      UserError: the batch does not divide over the processes.
    """
    slots = slots_of_process(batch_size, share)
    return EvaluationBatches(rows, num_examples, batch_size, slots)


def slots_of_process(batch_size: int, share: Share) -> range:
    """Returns the rows of a global batch that a process makes.

    Raises:
      UserError: the batch does not divide over the processes.
    """
    if batch_size % share.processes:
        raise UserError(
            f"a batch of {batch_size} sequences does not divide over {share.processes} processes"
        )
    size = batch_size // share.processes
    return range(share.process * size, (share.process + 1) * size)


def stack_rows(rows: Sequence[Batch]) -> Batch:
    """Returns rows, each a dict of arrays without a batch axis, as one batch."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
