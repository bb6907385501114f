"""Processor time and memory of a program and all that it starts."""

import contextlib
import os
from pathlib import Path


class ProcessTree:
    """A process and all that it started: processor seconds so far, and the memory of now."""

    def __init__(self, root: int):
        self._root = root
        self._ticks: dict[int, int] = {}  # of each process, also of those that have ended

    @property
    def processor_seconds(self) -> float:
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def sample(self) -> int:
        """Returns the bytes of all processes, pages that they share once."""
        children: dict[int, list[int]] = {}
        ticks: dict[int, int] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                fields = path.read_text().rpartition(")")[2].split()
                process = int(path.parent.name)
                children.setdefault(int(fields[1]), []).append(process)
                ticks[process] = int(fields[11]) + int(fields[12])
        total, waiting = 0, [self._root]
        while waiting:
            process = waiting.pop()
            waiting += children.get(process, [])
            self._ticks[process] = ticks.get(process, 0)
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total
