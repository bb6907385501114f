"""The input pipeline against the model that it feeds: rates of both, and how long steps wait."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lm_jax.benchmarking.evaluate import random_documents
from lm_jax.benchmarking.interleaved_timing import time_interleaved
from lm_jax.benchmarking.train_step import prepare
from lm_jax.build import BuiltExperiment, training_batches
from lm_jax.data.interface import Batches
from lm_jax.data.text import windows
from lm_jax.errors import UserError
from lm_jax.models.interface import Batch
from lm_jax.objectives import targets_per_step
from lm_jax.parallel import sharding
from lm_jax.training.loop import Hooks, fit
from lm_jax.training.state import TrainState, init_state
from lm_jax.training.train_step import Reported, jit_train_steps

_DOCUMENT = 512  # targets of a random document


def measure(built: BuiltExperiment, corpus: Any, dispatches: int) -> dict[str, Any]:
    """Times making batches and consuming them, and how long dispatches wait for input.

    Making means stacking the host's arrays of one dispatch. The waits come from real training by
    `fit`: the time from the end of a dispatch until the next one is submitted.

    Args:
      corpus: from `data.prepare`; None: random tokens in random documents.
      dispatches: the number to time, of `training.steps_per_call` steps each.

    Raises:
      UserError: there is no corpus, and the experiment does not read a stream of tokens.
    """
    experiment = built.experiment
    if corpus is None:
        batches = _random_batches(built, dispatches)
    else:
        batches = training_batches(built, corpus)
    steps = experiment.training.steps_per_call
    position = iter(range(0, steps * (2 * dispatches + 4), steps))

    def make() -> dict[str, np.ndarray]:
        first = next(position)
        rows = [batches[index] for index in range(first, first + steps)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    step = prepare(built, make())
    work: dict[str, Callable[[], Any]] = {"made": make, "consumed": step.work}
    timings = time_interleaved(work, dispatches)
    units = steps * targets_per_step(experiment)
    waited = wait_seconds(*_train(built, batches, dispatches))
    consumed = timings.rate("consumed", units, steps)
    return {
        "unit": built.objective.unit,
        "targets_per_step": targets_per_step(experiment),
        "steps_per_dispatch": steps,
        "rounds": dispatches,
        "programs": {"made": timings.rate("made", units, steps), "consumed": consumed},
        "made_over_consumed": timings.ratios("made", ["consumed"])["ratio"],
        "wait_seconds": {
            "median": float(np.median(waited)),
            "percentile_99": float(np.percentile(waited, 99)),
            "most": float(max(waited)),
        },
        "wait_share": float(np.percentile(waited, 99)) / (steps * consumed["seconds"]["median"]),
    }


def _random_batches(built: BuiltExperiment, dispatches: int) -> Batches:
    """Returns training batches of random documents; UserError if it reads no running text."""
    experiment = built.experiment
    if not built.objective.in_windows:
        raise UserError(
            "the suite data makes random tokens only for objectives that predict the next token "
            f"of running text, not {experiment.objective}; give --config with data on this machine"
        )
    per_step = targets_per_step(experiment)
    tokens = max(per_step * experiment.training.steps_per_call * dispatches // 4, 2 * per_step)
    return windows.training_batches(
        random_documents(tokens, experiment.model.vocab_size, _DOCUMENT),
        context_length=experiment.model.context_length,
        batch_size=per_step // experiment.model.context_length,
        seed=experiment.seed,
    )


def _train(
    built: BuiltExperiment, batches: Batches, dispatches: int
) -> tuple[list[float], list[float]]:
    """Returns the times in seconds at which each dispatch was submitted and finished."""
    experiment = built.experiment
    experiment.training.num_steps = (dispatches + 2) * experiment.training.steps_per_call
    experiment.evaluation.every_steps = experiment.checkpoint.every_steps = 0
    state = init_state(built.model, built.optimizer, built.example, built.mesh, experiment.seed)
    steps = jit_train_steps(built.train_step)
    submitted: list[float] = []
    finished: list[float] = []
    in_flight: queue.Queue[Mapping[str, jax.Array] | None] = queue.Queue()

    def watch() -> None:
        while (metrics := in_flight.get()) is not None:
            jax.block_until_ready(metrics)
            finished.append(time.perf_counter())

    def timed(state: TrainState, batch: Batch) -> tuple[TrainState, Reported]:
        submitted.append(time.perf_counter())
        result = steps(state, batch)
        in_flight.put(result[1])
        return result

    hooks = Hooks(
        log=lambda step, metrics: None,
        evaluate=lambda step, state: True,
        save=lambda step, state: None,
        stop_requested=lambda step: False,
    )
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with sharding.on_mesh(built.mesh):
            fit(timed, state, batches, experiment, built.mesh, hooks)
    finally:
        in_flight.put(None)
        watcher.join()
    return submitted, finished


def wait_seconds(submitted: Sequence[float], finished: Sequence[float]) -> list[float]:
    """Returns the seconds for which the device was idle before each dispatch after the second.

    The first two are left out: compiling the first delays the second.
    """
    pairs = zip(submitted[1:], finished, strict=False)
    return [max(0.0, later - earlier) for later, earlier in pairs][1:]
