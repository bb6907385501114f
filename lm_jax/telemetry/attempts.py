"""When a run was started, and started again, and why it failed: `attempts.json`."""

import contextlib
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from lm_jax.errors import UserError
from lm_jax.json_values import read_as
from lm_jax.telemetry.json_files import write_json
from lm_jax.telemetry.run_files import Attempt, Attempts, Row

_NAME = "attempts.json"


def read_attempts(workdir: Path) -> list[Attempt]:
    """Returns the starts of a run, the first one first; [] for a run of an earlier version.

    Raises:
      UserError: the file is damaged.
      OSError: it cannot be read.
    """
    try:
        return read_as(workdir / _NAME, Attempts)["attempts"]
    except FileNotFoundError:
        return []


def note_start(workdir: Path, step: int) -> None:
    """Adds a start from a step. A damaged file begins anew. Raises OSError if it is not written."""
    try:
        before = read_attempts(workdir)
    except UserError:
        before = []
    own = Attempt(started=time.time(), step=step, pid=os.getpid())
    write_json(workdir / _NAME, {"attempts": [*before, own]})


def note_error(workdir: Path, message: str) -> None:
    """Adds to the last start why it failed, if that can be written."""
    # The error of the run is the one to show.
    with contextlib.suppress(OSError, UserError):
        if attempts := read_attempts(workdir):
            attempts[-1]["error"] = " ".join(message.split())
            write_json(workdir / _NAME, {"attempts": attempts})


def seconds_before_last_start(rows: Sequence[Row], starts: Collection[int]) -> float:
    """Returns the seconds of a run before its last start, with those of the steps before a fork.

    Each start counts until the last row that it logged and the next one kept.

    Args:
      rows: of training, in the order of their steps; the `seconds` of each count from its start.
      starts: the steps that starts went on from, and that of a fork.
    """
    total, last = 0.0, (0, 0.0)  # step and seconds of the row before
    for row in rows:
        step, seconds = row["step"], row.get("seconds") or 0.0
        if seconds < last[1] or any(last[0] <= start < step for start in starts):
            total += last[1]
        last = step, seconds
    return total + (last[1] if any(start >= last[0] for start in starts) else 0.0)
