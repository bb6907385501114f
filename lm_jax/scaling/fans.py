"""Runs of one shape trained together, as one program: fans of learning rates, decays and seeds.

Small runs leave most of a device idle; side by side they are larger products. Each run has its own
parameters, batches and schedule, and comes to what it comes to alone, but for rounding.

Axes: r runs, n steps.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import data, programs, sharding, trainer, training, workdir
from lm_jax import experiment as experiments
from lm_jax.checkpoints import Checkpoints
from lm_jax.experiment import Experiment
from lm_jax.goodput import TimeSheet
from lm_jax.optimizers import learning_rate_schedule
from lm_jax.runs import restore
from lm_jax.training import TrainState

# What runs of one fan may differ in: numbers that the step reads, not what it is.
FREE = ("seed", "schedule", "optimizer.weight_decay")
# A fan is at one step, and all else is stacked.
_STACKED = TrainState(None, 0, 0, 0, 0)  # type: ignore[arg-type]


def _shape_of(experiment: Experiment) -> str:
    """The same text for experiments that can be trained as one fan."""
    found = experiments.to_dict(experiment)
    for path in FREE:
        *parts, name = path.split(".")
        inner = found
        for part in parts:
            inner = inner[part]
        del inner[name]
    return json.dumps(found, sort_keys=True)


def fans_of(runs: Mapping[str, Experiment]) -> list[list[str]]:
    """The names of runs, those that can be trained together in one list; in the order given."""
    found: dict[str, list[str]] = {}
    for name, experiment in runs.items():
        found.setdefault(_shape_of(experiment), []).append(name)
    return list(found.values())


def train(
    runs: Mapping[Path, Experiment],
    stop_requested: Callable[[int], bool] = lambda step: False,
) -> dict[Path, dict[str, Any]]:
    """Trains the runs of one fan, each in its work directory, as `trainer.train` does of one.

    Runs that are finished are left as they are; the others go on from the newest step of which all
    of them have a checkpoint. One that diverges does not stop the others: its results hold nothing
    but an `error`.

    Raises:
      ValueError: before anything is written, when the runs are not of one shape, count instead of
        descending, or a work directory belongs to another.
      NonFiniteLoss: all of them have diverged.
      OSError: a work directory or the cache cannot be written.
    """
    started = time.monotonic()
    if len({_shape_of(experiment) for experiment in runs.values()}) != 1:
        raise ValueError(
            f"{len(runs)} runs are not of one shape; runs of a fan differ in {', '.join(FREE)} only"
        )
    for directory, experiment in runs.items():
        experiments.validate(experiment)
        workdir.refuse_another_experiment(experiment, directory)
    dataset = data.prepare(next(iter(runs.values())).data)
    results = {directory: workdir.results_of(runs[directory], directory) for directory in runs}
    left = {directory: runs[directory] for directory in runs if results[directory] is None}
    if left:
        results |= _train(left, dataset, stop_requested, started)
    return results  # type: ignore[return-value]


def _train(
    runs: Mapping[Path, Experiment],
    dataset: Any,
    stop_requested: Callable[[int], bool],
    started: float,
) -> dict[Path, dict[str, Any]]:
    sizes = dataset.description["sizes"]
    members = [programs.compile_experiment(experiment, sizes) for experiment in runs.values()]
    first = members[0]
    if first.model.fit is not None:
        raise ValueError("a model that counts takes no steps; train it alone")
    for directory, experiment in runs.items():
        workdir.refuse_other_data(dataset, directory)
        workdir.write_inputs(directory, experiment, dataset)
    failures: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        checkpoints = [
            stack.enter_context(Checkpoints(directory / "checkpoints", experiment.checkpoint))
            for directory, experiment in runs.items()
        ]
        state, states = _first_states(members, checkpoints, dataset)
        records = [
            stack.enter_context(trainer.open_record(*parts, started))
            for parts in zip(runs, members, [dataset] * len(runs), checkpoints, states, strict=True)
        ]
        del states
        records[0].log.message(f"{len(members)} runs together, from step {int(state.step)}")

        def log(step: int, metrics: Mapping[str, np.ndarray]) -> None:
            for index, record in enumerate(records):
                record.meter.log(step, {name: value[:, index] for name, value in metrics.items()})

        def evaluate(step: int, state: TrainState) -> None:
            for index, record in enumerate(records):
                try:
                    record.evaluate(step, _member(state, index))
                except training.NonFiniteLoss as error:
                    failures[index] = str(error)

        def save(step: int, state: TrainState) -> None:
            for index, record in enumerate(records):
                if index not in failures:
                    record.save(step, _member(state, index))

        time_sheet = TimeSheet(started)
        with sharding.on_mesh(first.mesh):
            state = training.fit(
                training.jit_train_steps(make_train_step(members)),
                state,
                _Batches([programs.training_batches(member, dataset) for member in members]),
                first.experiment,
                first.mesh,
                training.Hooks(log, evaluate, save, stop_requested, time_sheet.spent),
                runs=len(members),
            )
        step = int(state.step)
        found: dict[Path, dict[str, Any]] = {}
        for index, record in enumerate(records):
            results: dict[str, Any] = {"workdir": str(record.directory), "step": step}
            if index in failures:
                results = {"error": failures[index]}
            elif step < first.experiment.training.num_steps:
                results["stopped"] = True
            else:
                results |= record.conclude(_member(state, index), started)
                results |= {"goodput": time_sheet.goodput(), "fan": len(members)}
            found[record.directory] = results
    for index, record in enumerate(records):
        if "validation" in found[record.directory]:
            trainer.write_results(record, _member(state, index), found[record.directory])
    return found


def _first_states(
    members: Sequence[programs.Program], checkpoints: Sequence[Checkpoints], dataset: Any
) -> tuple[TrainState, list[TrainState]]:
    """The states that the runs go on from, stacked and each: all of one step, or fresh."""
    common = set.intersection(*(set(of_one.steps()) for of_one in checkpoints))
    if common:
        states = [
            restore(member, of_one, str(max(common)), lambda line: None)[1]
            for member, of_one in zip(members, checkpoints, strict=True)
        ]
    else:
        states = init_states(members)
    return stacked(states), states


def init_states(members: Sequence[programs.Program]) -> list[TrainState]:
    """The states that the runs start from alone."""
    return [
        training.init_state(p.model, p.optimizer, p.example, p.mesh, p.experiment.seed)
        for p in members
    ]


def stacked(states: Sequence[TrainState]) -> TrainState:
    """States of one step as that of a fan."""
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return together._replace(step=states[0].step)


def make_train_step(members: Sequence[programs.Program]) -> training.TrainStep:
    """The train step of all runs on stacked states and batches [r, B, ...]; metrics are [r].

    Schedules enter as tables of their learning rates, so that any two can be in one fan.
    """
    configs = [member.experiment for member in members]
    steps_n = jnp.arange(configs[0].training.num_steps)
    rates_rn = jnp.stack(
        [
            jax.vmap(learning_rate_schedule(config.schedule, len(steps_n)))(steps_n)
            for config in configs
        ]
    ).astype(jnp.float32)
    decays_r = jnp.array([config.optimizer.weight_decay for config in configs], jnp.float32)

    def of_one(rates_n: jax.Array, decay: jax.Array, state: TrainState, batch: Any):
        _, train_step = programs.make_training(
            configs[0], members[0].model, lambda step: rates_n[step], decay
        )
        return train_step(state, batch)

    of_all = jax.vmap(of_one, in_axes=(0, 0, _STACKED, 0), out_axes=(_STACKED, 0))
    return lambda state, batch: of_all(rates_rn, decays_r, state, batch)


def _member(state: TrainState, index: int) -> TrainState:
    """The state of one run of a fan."""
    rest = jax.tree.map(lambda x: x[index], state._replace(step=None))  # type: ignore[arg-type]
    return rest._replace(step=state.step)


class _Batches:
    """The batches of all runs, stacked [r, B, ...]; the same where seeds are the same."""

    def __init__(self, of_runs: Sequence[training.Batches]):
        self._of_runs = of_runs

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        batches = [batches[step] for batches in self._of_runs]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
