"""Numbers for TensorBoard, written by the thread that has them.

tensorboardX's `SummaryWriter` hands them to a thread, which ends in silence when the disk is full;
the run then waits for ever once a queue of ten is full.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from lm_jax.errors import names_path

_FLUSH_SECONDS = 120.0


class TensorBoardEvents:
    """A file of events in a directory.

    Args:
      directory: which holds the files of earlier starts, too.
      purge_step: the step from which on TensorBoard hides what earlier files hold; None: none.

    Raises:
      OSError: it cannot be written, as in all methods; names the directory.
    """

    def __init__(self, directory: Path, purge_step: int | None):
        self._directory = directory
        with names_path(directory):
            self._writer = EventsWriter(str(directory / "events"))
        if purge_step is not None:
            self._write(Event(step=purge_step, file_version="brain.Event:2"))
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=purge_step, session_log=start))
        self._flushed = -_FLUSH_SECONDS  # the first numbers show at once

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds numbers of a step, by name."""
        for name, value in numbers.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        now = time.monotonic()
        if now - self._flushed >= _FLUSH_SECONDS:
            self._flushed = now
            with names_path(self._directory):
                self._writer.flush()

    def close(self) -> None:
        """Writes what is left."""
        with names_path(self._directory):
            self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with names_path(self._directory):
            self._writer.write_event(event)
