r"""Times saving and restoring a checkpoint of random arrays, in turns.

  python -m benchmarks.checkpoint_times --megabytes=200 --rounds=15

A save is written in the background while the next steps are taken, or waited for: what that costs
is the difference of the two. A restore is timed with and without comparing digests. Prints medians
and their quartiles, in seconds.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from lm_jax.config.experiment import CheckpointConfig
from lm_jax.training import checkpoints
from lm_jax.training.checkpoints import Checkpoints, finished_steps

MEGABYTES = flags.DEFINE_float("megabytes", 200.0, "Size of the arrays.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Repetitions, in turns.")
INTERVAL_SECONDS = flags.DEFINE_float("interval_seconds", 3.0, "Work between two saves.")

_ARRAYS = 8
Times = dict[str, list[float]]


def _state() -> dict[str, jax.Array]:
    size = int(MEGABYTES.value * 1e6 / 4 / _ARRAYS)
    rng = np.random.default_rng(0)
    return {str(i): jnp.asarray(rng.standard_normal(size, np.float32)) for i in range(_ARRAYS)}


def _interval() -> Callable[[], None]:
    """Returns what keeps all cores busy for about as long as the steps between two saves."""
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: jnp.tanh(y @ y / 1000), x))
    x = jnp.ones((512, 512))
    step(x).block_until_ready()
    started = time.perf_counter()
    for _ in range(10):
        step(x).block_until_ready()
    count = max(round(INTERVAL_SECONDS.value * 10 / (time.perf_counter() - started)), 1)

    def run() -> None:
        for _ in range(count):
            step(x).block_until_ready()

    return run


def _saved(state: dict[str, jax.Array], interval: Callable[[], None], waits: bool) -> list[float]:
    """Returns the seconds until a save was complete, and until the steps after it were taken."""
    with tempfile.TemporaryDirectory() as name:
        root, committed = Path(name), list[float]()
        with Checkpoints(root, CheckpointConfig(keep_last=2)) as saver:
            started = time.perf_counter()

            def watch() -> None:
                while not finished_steps(root):
                    time.sleep(0.002)
                committed.append(time.perf_counter() - started)

            watcher = threading.Thread(target=watch)
            watcher.start()
            saver.save(1, state)
            if waits:
                watcher.join()
            interval()
            ended = time.perf_counter() - started
            watcher.join()
        return [*committed, ended]


def _restored(root: Path, state: dict[str, jax.Array], compares: bool) -> float:
    found = mock.patch.object(checkpoints, "find_damage", lambda *_, **__: "")
    with Checkpoints(root, CheckpointConfig(), read_only=True) as reader:
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        if not compares:
            found.start()
        started = time.perf_counter()
        try:
            jax.block_until_ready(reader.restore(shapes, "last", print)[1])
        finally:
            mock.patch.stopall()
        return time.perf_counter() - started


def main(argv: list[str]) -> None:
    """Times saves and restores in turns."""
    state, interval, times = _state(), _interval(), Times()
    for number in range(ROUNDS.value):
        for waits in (False, True) if number % 2 else (True, False):
            written, ended = _saved(state, interval, waits)
            name = "waiting" if waits else "in the background"
            times.setdefault(f"save {name}: complete", []).append(written)
            times.setdefault(f"save {name}: with the steps after it", []).append(ended)
    with tempfile.TemporaryDirectory() as name:
        with Checkpoints(Path(name), CheckpointConfig()) as saver:
            saver.save(1, state)
        for number in range(ROUNDS.value):
            for compares in (False, True) if number % 2 else (True, False):
                what = "with digests" if compares else "without"
                seconds = _restored(Path(name), state, compares)
                times.setdefault(f"restore {what}", []).append(seconds)
    for what, found in sorted(times.items()):
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{what:50} {middle:.3f}  ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    app.run(main)
