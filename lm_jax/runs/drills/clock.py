"""A clock that jumps, as one that is set by hand or by the network does."""

import time
from collections.abc import Sequence
from typing import NamedTuple


class Jump(NamedTuple):
    """A change of the clock."""

    after: float  # seconds from now
    seconds: float  # forwards, or backwards where negative


def jump(jumps: Sequence[Jump]) -> None:
    """Lets the time of this process jump; the monotonic clock and those of file systems do not.

    `time.time` and `time.time_ns` are replaced. Code that reads the clock otherwise, such as
    `datetime.now` and code in C++, has the old one.
    """
    started, now, now_ns = time.monotonic(), time.time, time.time_ns

    def offset() -> float:
        passed = time.monotonic() - started
        return sum(jump.seconds for jump in jumps if jump.after <= passed)

    time.time = lambda: now() + offset()
    time.time_ns = lambda: now_ns() + round(offset() * 1e9)
