"""Mixtures: which source a sequence comes from, as a pure function of its position in the run.

A source's sequences are drawn in its own order, epoch after epoch. Sources follow one another in a
pattern of `PERIOD` sequences that repeats, so any `PERIOD` sequences in a row hold each source in
the proportion of its weight exactly, and shorter stretches nearly.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lm_jax.choices import choose
from lm_jax.data.batches import (
    WHOLE,
    Batch,
    Order,
    RandomAccessBatches,
    RowFunction,
    Rows,
    Share,
    batches_by_position,
    shuffled_order,
)
from lm_jax.data.documents import SOURCES, TokenizedDocuments, consecutive, ranges
from lm_jax.data.sources import PERIOD, parse_epochs, parse_weights
from lm_jax.data.text.packing import PACKINGS, Told, told_by_source
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.data.text.config import DataConfig


class Mix(NamedTuple):
    """How the sources of a training split are mixed."""

    documents: dict[str, int]  # of each of K sources, one after the other in the split
    weights: dict[int, list[float]]  # by the position from which they hold; {}: by size
    epochs: list[float | None]  # [K]: the most of each source; None: no limit
    length: int  # sequences that the run takes
    packing: str  # how the documents of a source fill rows; a key of `PACKINGS`


def mix_of(
    config: "DataConfig", description: Mapping[str, Any], batch_size: int, num_steps: int
) -> Mix | None:
    """Returns the mix of a data set whose reader named sources; None: it has one source."""
    sources = description.get(SOURCES["train"])
    if not sources:
        return None
    names = list(sources)
    weights = parse_weights(config.weights, names)
    epochs = parse_epochs(config.epochs, names)
    return Mix(
        dict(sources),
        {step * batch_size: list(found.values()) for step, found in weights.items()},
        [epochs.get(name) for name in names],
        num_steps * batch_size,
        config.packing,
    )


def mixed_batches(
    documents: TokenizedDocuments,
    mix: Mix,
    *,
    context_length: int,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
) -> RandomAccessBatches:
    """Returns batches of windows as `training_batches` makes them, drawn from several sources.

    Raises:
      UserError: as `mixed_windows`, or the batch does not divide.
    """
    rows, about = mixed_windows(documents, mix, context_length, seed)
    return batches_by_position(rows, batch_size=batch_size, share=share, **about)


def mixed_windows(
    documents: TokenizedDocuments, mix: Mix, context_length: int, seed: int
) -> tuple[RowFunction, Told]:
    """Returns a row function of a stream whose documents are those of several sources.

    Raises:
      UserError: a source is shorter than one window, or all reach their limits before the run ends.
    """
    is_parted = len(documents.characters) > 1
    pack = choose(PACKINGS, mix.packing, "data.packing")
    packed = {
        name: pack(consecutive(documents, numbers), context_length, seed, is_parted)
        for name, numbers in ranges(mix.documents).items()
    }
    sizes = [each.per_epoch for each in packed.values()]
    wastes = {name: each.waste for name, each in packed.items()}
    limits = [
        None if most is None else max(1, round(most * size))
        for most, size in zip(mix.epochs, sizes, strict=True)
    ]
    timeline = Timeline(sizes, mix.weights, limits)
    if timeline.length is not None and timeline.length < mix.length:
        raise UserError(
            f"the run takes {mix.length:,} sequences, and the sources hold {timeline.length:,} "
            f"within data.epochs; allow more epochs or train for fewer steps"
        )
    # Equal seeds would walk through sources of one size in step.
    seeds = np.random.SeedSequence(seed).generate_state(len(sizes))
    orders = [shuffled_order(size, int(own)) for size, own in zip(sizes, seeds, strict=True)]
    rows = [each.make for each in packed.values()]
    return mixed_rows(timeline, rows, orders), told_by_source(mix.packing, wastes)


class _Phase(NamedTuple):
    """A stretch of the run with one pattern."""

    first: int  # position of its first sequence
    pattern: np.ndarray  # [PERIOD]: the source of each sequence
    ranks: np.ndarray  # [PERIOD]: how many sequences of that source come before in the pattern
    counts: np.ndarray  # [K]: sequences of each source in a pattern
    before: np.ndarray  # [K]: sequences of each source before the phase


class Timeline:
    """Position of a sequence in the run -> its source, and its number among those of the source."""

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Mapping[int, Sequence[float]],
        limits: Sequence[int | None],
    ):
        """Lays out the phases of a run.

        Args:
          sizes: the sequences of an epoch of each source, [K].
          weights: by the position from which they hold, 0 among them; {}: those of the sizes.
          limits: the most sequences of each source; None: no limit. A source that reaches its limit
            leaves its share to the others.
        """
        total = sum(sizes)
        weights = weights or {0: [size / total for size in sizes]}
        self._phases: list[_Phase] = []
        self.length: int | None = None  # sequences until every source has reached its limit
        before = np.zeros(len(sizes), np.int64)
        starts = sorted(weights)
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            first: int | None = start
            while first is not None and (end is None or first < end):
                open_ = [
                    weight if limit is None or used < limit else 0.0
                    for weight, limit, used in zip(weights[start], limits, before, strict=True)
                ]
                if not sum(open_):
                    self.length = first
                    return
                phase = _phase(first, open_, before)
                self._phases.append(phase)
                stop = min(filter(None, (_first_beyond(phase, limits), end)), default=None)
                if stop is not None:
                    before = phase.before + _used(phase, stop - first)
                first = stop

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns each sequence's source, and its number among those of the source; [R] each."""
        firsts = np.array([phase.first for phase in self._phases])
        which = np.searchsorted(firsts, positions, side="right") - 1
        sources, numbers = np.empty_like(positions), np.empty_like(positions)
        for index in np.unique(which):
            phase, here = self._phases[index], which == index
            rounds, places = np.divmod(positions[here] - phase.first, PERIOD)
            source = phase.pattern[places]
            sources[here] = source
            numbers[here] = phase.before[source] + rounds * phase.counts[source]
            numbers[here] += phase.ranks[places]
        return sources, numbers


def _phase(first: int, weights: Sequence[float], before: np.ndarray) -> _Phase:
    pattern = _pattern(tuple(weights))
    counts = np.bincount(pattern, minlength=len(weights))
    ranks = np.zeros(PERIOD, np.int64)
    for source in range(len(weights)):
        ranks[pattern == source] = np.arange(counts[source])
    return _Phase(first, pattern, ranks, counts, before)


@lru_cache(maxsize=64)
def _pattern(weights: tuple[float, ...]) -> np.ndarray:
    """Returns sources [PERIOD] spread evenly: each next one is the furthest behind its share."""
    shares = np.array(weights) / sum(weights) * PERIOD
    counts = np.floor(shares).astype(np.int64)
    for source in np.argsort(counts - shares, kind="stable")[: PERIOD - counts.sum()]:
        counts[source] += 1
    taken, pattern = np.zeros(len(weights)), np.empty(PERIOD, np.int64)
    rates = counts / PERIOD
    for place in range(PERIOD):
        behind = rates * (place + 1) - taken
        source = int(np.argmax(np.where(taken < counts, behind, -np.inf)))
        pattern[place] = source
        taken[source] += 1
    return pattern


def _used(phase: _Phase, length: int) -> np.ndarray:
    """Returns the sequences of each source among the first ones of a phase."""
    rounds, rest = divmod(length, PERIOD)
    partly = np.bincount(phase.pattern[:rest], minlength=len(phase.counts))
    return rounds * phase.counts + partly


def _first_beyond(phase: _Phase, limits: Sequence[int | None]) -> int | None:
    """Returns the position of the first sequence beyond the limit of its source."""
    found = []
    for source, limit in enumerate(limits):
        count = int(phase.counts[source])
        if limit is not None and count:
            rounds, rank = divmod(limit - int(phase.before[source]), count)
            place = int(np.flatnonzero(phase.pattern == source)[rank])
            found.append(phase.first + rounds * PERIOD + place)
    return min(found, default=None)


def mixed_rows(
    timeline: Timeline, rows: Sequence[RowFunction], orders: Sequence[Order]
) -> RowFunction:
    """Returns a row function that draws each sequence from its source.

    Args:
      rows: the row function of each source; they make arrays of the same names and shapes.
      orders: the order of the sequences of each source, epoch after epoch.
    """

    def make(asked: Rows) -> Batch:
        sources, numbers = timeline.locate(asked.numbers)
        batch: Batch = {}
        for source in np.unique(sources):
            here = sources == source
            part = rows[source](
                Rows(
                    asked.step,
                    asked.slots[here],
                    numbers[here],
                    orders[source](numbers[here]),
                    asked.is_padding[here],
                )
            )
            for name, values in part.items():
                whole = batch.setdefault(
                    name, np.zeros((len(sources), *values.shape[1:]), values.dtype)
                )
                whole[here] = values
        return batch

    return make
