"""Timing in turns: one process does a little of each, so that a drifting machine drifts for all."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Turn = Callable[[], None]


class Seconds(NamedTuple):
    """Seconds of the turns of each, by its name."""

    first: dict[str, float]  # with what is done once, and not among the others
    turns: dict[str, list[float]]

    def medians(self) -> dict[str, float]:
        """The median of the turns of each."""
        return {name: statistics.median(values) for name, values in self.turns.items()}

    def rate(self, name: str, units: float, parts: int = 1) -> dict[str, Any]:
        """What one did of `units` a turn in a second, and the seconds of each of `parts` parts."""
        lower, median, upper = (value / parts for value in quartiles(self.turns[name]))
        return {
            "per_second": units / parts / median,
            "seconds": {"median": median, "lower_quartile": lower, "upper_quartile": upper},
            "first_turn_seconds": self.first[name],
        }

    def ratios(self, ours: str, others: Sequence[str]) -> dict[str, Any]:
        """How many times as long the quickest of the others takes as ours: median and range."""
        if not others:
            return {}
        pairs = zip(self.turns[ours], *(self.turns[name] for name in others), strict=True)
        ratios = [min(theirs) / mine for mine, *theirs in pairs]
        return {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}


def take_turns(
    turns: Mapping[str, Turn], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> Seconds:
    """Seconds of so many rounds, in each of which every one takes its turn.

    One round more is taken before, whose seconds are `first`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            start = clock()
            turn()
            seconds[name].append(clock() - start)
    return Seconds(
        {name: values[0] for name, values in seconds.items()},
        {name: values[1:] for name, values in seconds.items()},
    )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile, between the values next to each."""
    if len(values) == 1:
        return (values[0],) * 3
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper
