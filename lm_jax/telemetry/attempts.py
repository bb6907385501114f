"""When a run was started, and started again, and why it failed: `attempts.json`."""

import contextlib
import os
import time
from pathlib import Path

from lm_jax.errors import UserError
from lm_jax.json_values import read_as
from lm_jax.telemetry.json_files import write_json
from lm_jax.telemetry.run_files import Attempt, Attempts

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
