"""Seconds from a command to its first optimizer step, with and without a compilation cache."""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from lm_jax.benchmarking.train_step import prepare, random_batches
from lm_jax.build import BuiltExperiment
from lm_jax.errors import UserError

FIRST_STEP = "first step after"  # prefix of the line that a process prints after its first step


def first_step(built: BuiltExperiment, started: float) -> dict[str, float]:
    """Returns the seconds from `started` (time.monotonic) to each stage of a one-step dispatch."""
    built.experiment.training.steps_per_call = 1
    stages = {"functions": time.monotonic() - started}  # includes finding the devices
    prepared = prepare(built, random_batches(built, 1))
    stages["compiled"] = time.monotonic() - started
    prepared.work()
    stages["first_step"] = time.monotonic() - started
    return stages


def measure(command: Sequence[str], rounds: int) -> dict[str, Any]:
    """Times a command until its first step, with an empty (cold) and a filled (warm) cache.

    Args:
      command: prints a line that begins with `FIRST_STEP` after its first step, and then ends.
      rounds: the number of measurements of each kind; cold and warm ones alternate.

    Raises:
      UserError: the command failed; the message quotes the last line of its errors.
    """
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for kind in seconds:
                seconds[kind].append(_until_first_step(command, cache))
    return {
        name: {"median": statistics.median(values), "all": values}
        for name, values in seconds.items()
    }


def _until_first_step(command: Sequence[str], cache: str) -> float:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    start = time.perf_counter()
    found = None
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if found is None and line.startswith(FIRST_STEP):
                    found = time.perf_counter() - start
        if found is None or process.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["it printed no error"])[-1]
            raise UserError(f"{' '.join(command)} made no first step: {last}")
    return found
