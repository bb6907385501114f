"""Seconds from a command to its first optimizer step, with compiling and from a cache."""

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

FIRST_STEP = "first step after"  # how the line begins that a process prints at its first step


def first_step(built: BuiltExperiment, started: float) -> dict[str, float]:
    """Seconds from `started` (of time.monotonic) to each stage of one dispatch of one step."""
    built.experiment.training.steps_per_call = 1
    stages = {"functions": time.monotonic() - started}  # JAX knows its devices by now
    prepared = prepare(built, random_batches(built, 1))
    stages["compiled"] = time.monotonic() - started
    prepared.turn()
    stages["first_step"] = time.monotonic() - started
    return stages


def measure(command: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds until a command prints its first step: without a compilation cache, and with one.

    Args:
      command: prints a line that begins with `FIRST_STEP` then, and ends soon after.
      rounds: how many times with each, a cold and a warm one in turns.

    Raises:
      UserError: the command failed, with the last line of its errors.
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
            last = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"{' '.join(command)} made no first step: {last}")
    return found
