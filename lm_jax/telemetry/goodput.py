"""Where the wall time of a training goes: goodput is the share of it that is spent in steps."""

import time
from collections.abc import Callable, Mapping

# What the host can be at, in the order in which it is shown.
ACTIVITIES = {
    "steps": "steps",
    "input": "waiting for input",
    "compiling": "compiling the step",
    "evaluation": "evaluation",
    "checkpoints": "checkpoints",
    "dispatch": "handing over steps",
    "logging": "logging",
    "starting": "starting",
}


class TimeSheet:
    """Books all seconds since it was opened, each to one activity of the host."""

    def __init__(self, started: float, clock: Callable[[], float] = time.monotonic):
        self._last, self._clock = started, clock
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)

    def record_time(self, activity: str) -> None:
        """Books the time since the last call, or since the start, to an activity."""
        now = self._clock()
        self._seconds[activity] += now - self._last
        self._last = now

    @property
    def took_steps(self) -> bool:
        """Whether the device has finished a step."""
        return self._seconds["steps"] > 0

    def goodput(self) -> dict[str, float]:
        """Seconds by activity, and `share`: that of `steps`."""
        total = sum(self._seconds.values())
        return self._seconds | {"share": self._seconds["steps"] / total if total else 0.0}


def bars(goodput: Mapping[str, float]) -> list[tuple[str, float, bool]]:
    """Returns the activities that took time as rows of a bar chart: name, percent, emphasis."""
    total = sum(goodput.get(activity, 0.0) for activity in ACTIVITIES)
    return [
        (text, 100 * goodput[activity] / total, activity == "steps")
        for activity, text in ACTIVITIES.items()
        if goodput.get(activity) and total > 0
    ]
