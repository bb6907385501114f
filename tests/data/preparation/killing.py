"""A stage that kills its process once: `tests/data/preparation/killing.py:add_killing`."""

import os
import signal
from pathlib import Path

from datatrove.pipeline.base import PipelineStep


class Killing(PipelineStep):
    """Ends the process, as the kernel does for want of memory, in the first task 1 of all."""

    type, name = "KILL", "once"

    def __init__(self, directory: Path):
        super().__init__()
        self.marker, self.runs = directory / "killed", directory / "runs"

    def run(self, data, rank=0, world_size=1):
        with self.runs.open("a") as file:
            file.write(f"{rank}\n")
        for document in data:
            if rank == 1 and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield document


class KillingAlways(Killing):
    """Ends the process of each task 1."""

    def run(self, data, rank=0, world_size=1):
        for document in data:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield document


def add_killing(plan):
    plan.add(Killing(plan.directory.parent.parent))


def add_killing_always(plan):
    plan.add(KillingAlways(plan.directory))
