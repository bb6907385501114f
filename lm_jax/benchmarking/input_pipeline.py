"""The input pipeline beside the model that it feeds: which is faster, and how long steps wait."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lm_jax import data
from lm_jax.benchmarking.evaluate import random_documents
from lm_jax.benchmarking.interleaved_timing import take_turns
from lm_jax.benchmarking.train_step import prepare
from lm_jax.build import BuiltExperiment, training_batches
from lm_jax.data.interface import Batches
from lm_jax.errors import UserError
from lm_jax.objectives import targets_per_step
from lm_jax.parallel import sharding
from lm_jax.training.loop import Hooks, fit
from lm_jax.training.state import TrainState, init_state
from lm_jax.training.train_step import jit_train_steps

_DOCUMENT = 512  # targets of a random document


def measure(built: BuiltExperiment, corpus: Any, dispatches: int) -> dict[str, Any]:
    """How fast batches are made, and consumed by the model, and how long dispatches waited.

    Making is stacking the host's arrays of a dispatch. The waits are of real training, `fit`: from
    the moment when a dispatch was done to that when the next one was handed over.

    Args:
      corpus: what `data.prepare` gave; None: random tokens in random documents.
      dispatches: how many to time, of `training.steps_per_call` steps each.

    Raises:
      UserError: there is no corpus, and the program does not read a stream of tokens.
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
    turns: dict[str, Callable[[], Any]] = {"made": make, "consumed": step.turn}
    seconds = take_turns(turns, dispatches)
    units = steps * targets_per_step(experiment)
    waited = waits(*_trained(built, batches, dispatches))
    consumed = seconds.rate("consumed", units, steps)
    return {
        "unit": built.objective.unit,
        "targets_per_step": targets_per_step(experiment),
        "steps_per_dispatch": steps,
        "rounds": dispatches,
        "programs": {"made": seconds.rate("made", units, steps), "consumed": consumed},
        "made_over_consumed": seconds.ratios("made", ["consumed"])["ratio"],
        "wait_seconds": {
            "median": float(np.median(waited)),
            "percentile_99": float(np.percentile(waited, 99)),
            "most": float(max(waited)),
        },
        "wait_share": float(np.percentile(waited, 99)) / (steps * consumed["seconds"]["median"]),
    }


def _random_batches(built: BuiltExperiment, dispatches: int) -> Batches:
    experiment = built.experiment
    if experiment.objective != "causal_lm":
        raise UserError(
            "the suite data has random tokens for objective causal_lm, not "
            f"{experiment.objective}; give a --config whose data can be had"
        )
    per_step = targets_per_step(experiment)
    tokens = max(per_step * experiment.training.steps_per_call * dispatches // 4, 2 * per_step)
    return data.training_batches(
        random_documents(tokens, experiment.model.vocab_size, _DOCUMENT),
        context_length=experiment.model.context_length,
        batch_size=per_step // experiment.model.context_length,
        seed=experiment.seed,
    )


def _trained(
    built: BuiltExperiment, batches: Batches, dispatches: int
) -> tuple[list[float], list[float]]:
    """When each dispatch of a training was handed over, and when it was done."""
    experiment = built.experiment
    experiment.training.num_steps = (dispatches + 2) * experiment.training.steps_per_call
    experiment.evaluation.every_steps = experiment.checkpoint.every_steps = 0
    state = init_state(built.model, built.optimizer, built.example, built.mesh, experiment.seed)
    steps = jit_train_steps(built.train_step)
    handed: list[float] = []
    done: list[float] = []
    under_way: queue.Queue[Mapping[str, jax.Array] | None] = queue.Queue()

    def watch() -> None:
        while (metrics := under_way.get()) is not None:
            jax.block_until_ready(metrics)
            done.append(time.perf_counter())

    def timed(state: TrainState, batch: Any) -> Any:
        handed.append(time.perf_counter())
        result = steps(state, batch)
        under_way.put(result[1])
        return result

    hooks = Hooks(
        log=lambda step, metrics: None,
        evaluate=lambda step, state: None,
        save=lambda step, state: None,
        stop_requested=lambda step: False,
    )
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with sharding.on_mesh(built.mesh):
            fit(timed, state, batches, experiment, built.mesh, hooks)
    finally:
        under_way.put(None)
        watcher.join()
    return handed, done


def waits(handed: Sequence[float], done: Sequence[float]) -> list[float]:
    """Seconds for which the device had nothing to do before each dispatch but the first two.

    The first is compiled, which delays the second.
    """
    pairs = zip(handed[1:], done, strict=False)
    return [max(0.0, later - earlier) for later, earlier in pairs][1:]
