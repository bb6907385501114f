"""Waits for space on a full disk, and lets a run go on from its newest checkpoint."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_jax.errors import is_full
from lm_jax.training.checkpoints import finished_steps

_POLL_SECONDS = 15.0
_LEAST_BYTES = 2**20  # that have to fit before a run is begun again
_CHUNK = bytes(2**20)


def train_with_space(
    train: Callable[[], dict[str, Any]],
    directory: Path,
    stop_requested: Callable[[], bool],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Returns what `train` returns, which is called again when a full disk has space again.

    Space has come back when the newest checkpoint would fit once more. If a stop is requested while
    this waits, the results say `"stopped": True`.

    Args:
      train: trains in a work directory, or goes on there from its newest checkpoint.
      log: called with one line for each time that the disk is full, and one when it no longer is.

    Raises:
      OSError: of another kind than a full disk.
    """
    while True:
        try:
            return train()
        except OSError as error:
            if not is_full(error):
                raise
            named = Path(str(error.filename)).parent if error.filename else directory
            reason = str(error).partition("; ")[0]
        log(f"{reason}; waiting for space, finished checkpoints are complete")
        while not (has_space(directory) and has_space(named)):
            if stop_requested():
                step = max(finished_steps(directory / "checkpoints"), default=0)
                return {"workdir": str(directory), "step": step, "stopped": True}
            time.sleep(_POLL_SECONDS)
        log("there is space again; going on")


def has_space(directory: Path) -> bool:
    """Returns whether as much as the newest checkpoint of a run takes, and 1 MiB, can be written.

    It is written, since quotas and limits do not show otherwise, and removed.
    """
    steps = finished_steps(directory / "checkpoints")
    newest = directory / "checkpoints" / str(steps[-1]) if steps else directory / "checkpoints"
    needed = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    existing = next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
    probe = existing / f".space.{uuid.uuid4().hex[:12]}.partial"
    try:
        with probe.open("xb", buffering=0) as file:
            left = needed + _LEAST_BYTES
            while left > 0:
                written = file.write(_CHUNK[:left])
                left -= written or 0
        return True
    except OSError as error:
        if is_full(error):
            return False
        raise
    finally:
        probe.unlink(missing_ok=True)
