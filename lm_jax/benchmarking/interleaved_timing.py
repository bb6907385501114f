"""Interleaved timing: rounds in one process, so that a drift in clock speed affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Work = Callable[[], None]  # returns when the device has finished


class Timings(NamedTuple):
    """Seconds by the name of the work."""

    first: dict[str, float]  # the warm-up round, which includes compiling
    rounds: dict[str, list[float]]

    def rate(self, name: str, units: float, steps: int = 1) -> dict[str, Any]:
        """Returns units per second, and the seconds per step with their quartiles.

        Args:
          units: what one call does, such as tokens.
          steps: the number of steps in one call.
        """
        lower, median, upper = (value / steps for value in quartiles(self.rounds[name]))
        return {
            "per_second": units / steps / median,
            "seconds": {"median": median, "lower_quartile": lower, "upper_quartile": upper},
            "first_call_seconds": self.first[name],
        }

    def ratios(self, ours: str, baselines: Sequence[str]) -> dict[str, Any]:
        """Returns the fastest baseline's seconds over ours, per round: median and range.

        Above 1, ours is faster. Empty if there are no baselines.
        """
        if not baselines:
            return {}
        pairs = zip(self.rounds[ours], *(self.rounds[name] for name in baselines), strict=True)
        ratios = [min(theirs) / own for own, *theirs in pairs]
        return {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}


def time_interleaved(
    work: Mapping[str, Work], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> Timings:
    """Times each piece of work once per round, after one warm-up round that is kept apart.

    Args:
      work: functions by name, called in this order in each round.
      clock: returns the time in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, call in work.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return Timings(
        {name: values[0] for name, values in seconds.items()},
        {name: values[1:] for name, values in seconds.items()},
    )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile, linearly interpolated."""
    if len(values) == 1:
        return (values[0],) * 3
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper
