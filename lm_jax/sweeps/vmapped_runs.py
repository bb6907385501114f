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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import data
from lm_jax.build import BuiltExperiment, build_experiment, make_training, training_batches
from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import flat_without
from lm_jax.data.interface import Batches
from lm_jax.errors import UserError
from lm_jax.objectives.validation import validate
from lm_jax.parallel import sharding
from lm_jax.runs import workdir
from lm_jax.runs.recorder import Record, open_record, write_results
from lm_jax.runs.train import check, first_state, inherited_variables
from lm_jax.sweeps.warm_starts import fork_step
from lm_jax.telemetry.goodput import TimeSheet
from lm_jax.training.checkpoints import Checkpoints, finished_steps
from lm_jax.training.loop import Hooks, NonFiniteLoss, check_finite, fit
from lm_jax.training.schedules import learning_rate_schedule
from lm_jax.training.state import TrainState, init_state
from lm_jax.training.train_step import TrainStep, jit_train_steps

# What runs of one fan may differ in: numbers that the step reads, not what it is.
FREE = ("seed", "schedule", "optimizer.weight_decay")
# A fan is at one step, and all else is stacked.
_STACKED = TrainState(None, 0, 0, 0, 0)  # type: ignore[arg-type]


def _shape_of(experiment: Experiment) -> str:
    """The same text for experiments that can be trained as one fan."""
    return json.dumps(flat_without(experiment, FREE), sort_keys=True)


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

    Runs that are finished are left as they are. The others go on from their newest checkpoints,
    those of one step together. One that diverges does not stop the others: its results hold nothing
    but an `error`, as do those of one that cannot be written down.

    Raises:
      UserError: before anything is written, when the runs are not of one shape, cannot be trained
        together, or a work directory belongs to another.
      OSError: a checkpoint or the cache cannot be written.
    """
    started = time.monotonic()
    if len({_shape_of(experiment) for experiment in runs.values()}) != 1:
        raise UserError(
            f"{len(runs)} runs are not of one shape; runs of a fan differ in {', '.join(FREE)} only"
        )
    for directory, experiment in runs.items():
        validate(experiment)
        workdir.refuse_another_experiment(experiment, directory)
    dataset = data.prepare(next(iter(runs.values())).data)
    results: dict[Path, dict[str, Any]] = {}
    by_step: dict[int, dict[Path, Experiment]] = {}
    for directory, experiment in runs.items():
        workdir.refuse_other_data(dataset, directory)
        finished = workdir.results_of(experiment, directory)
        if finished is not None:
            results[directory] = finished
        else:
            by_step.setdefault(_newest_step(directory), {})[directory] = experiment
    for step, left in by_step.items():
        if any(found.get("stopped") for found in results.values()):
            results |= {d: {"workdir": str(d), "step": step, "stopped": True} for d in left}
        else:
            results |= _train(left, dataset, stop_requested, started)
    return {directory: results[directory] for directory in runs}


def _newest_step(directory: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    return max(finished_steps(directory / "checkpoints"), default=0)


def _train(
    runs: Mapping[Path, Experiment],
    dataset: Any,
    stop_requested: Callable[[int], bool],
    started: float,
) -> dict[Path, dict[str, Any]]:
    """Trains runs whose newest checkpoints are of one step."""
    sizes = dataset.sizes
    members = [build_experiment(experiment, sizes) for experiment in runs.values()]
    first = members[0]
    if first.model.fit is not None:
        raise UserError("a model that counts takes no steps; train it alone")
    if first.mesh.size > first.mesh.shape["data"]:
        raise UserError(
            f"a fan splits its batches only, and the mesh is {first.experiment.mesh}; set mesh to "
            "data:-1, or train the runs one by one"
        )
    check(first, dataset)
    inherited = None
    if not any(map(_newest_step, runs)):
        inherited = inherited_variables(first.experiment, dataset.tokenizer)
    for directory, experiment in runs.items():
        workdir.write_inputs(directory, experiment, dataset)
    with contextlib.ExitStack() as stack:
        checkpoints = [
            stack.enter_context(
                Checkpoints(
                    directory / "checkpoints",
                    experiment.checkpoint,
                    keep_step=fork_step(experiment),
                )
            )
            for directory, experiment in runs.items()
        ]
        states, notes = [], []
        for member, of_one in zip(members, checkpoints, strict=True):
            state, said = first_state(member, of_one, dataset, inherited)
            states.append(state)
            notes += [note for note in said if note not in notes]
        if len({int(state.step) for state in states}) > 1:
            raise UserError(
                "a newest checkpoint cannot be read, and the one before it is of another step than "
                f"those of the other runs ({'; '.join(notes)}); train these runs one by one"
            )
        records = [
            stack.enter_context(open_record(*parts, started, shows=not index))
            for index, parts in enumerate(
                zip(runs, members, [dataset] * len(runs), checkpoints, states, strict=True)
            )
        ]
        losses = records[0].losses  # compiled once
        fan = _Fan([record._replace(losses=losses) for record in records], {})
        state = stacked(states)
        del states
        for note in [*notes, f"{len(members)} runs together, from step {int(state.step)}"]:
            records[0].log.message(note)
        time_sheet = TimeSheet(started)
        with sharding.on_mesh(first.mesh), contextlib.suppress(_AllDiverged):
            state = fit(
                jit_train_steps(make_train_step(members)),
                state,
                _Batches([training_batches(member, dataset) for member in members]),
                first.experiment,
                first.mesh,
                Hooks(fan.log, fan.evaluate, fan.save, stop_requested, time_sheet.spent),
                runs=len(members),
                save_at=[fork_step(experiment) for experiment in runs.values()],
            )
        if len(fan.failures) == len(members):
            return {r.directory: {"error": fan.failures[i]} for i, r in enumerate(records)}
        found = fan.conclude(state, started, time_sheet.goodput())
    return found


class _AllDiverged(Exception):
    """No run of the fan is left."""


class _Fan(NamedTuple):
    """The records of the runs of a fan, and why those failed that did."""

    records: list[Record]
    failures: dict[int, str]  # by the index of the run

    def _left(self) -> list[tuple[int, Record]]:
        return [(i, record) for i, record in enumerate(self.records) if i not in self.failures]

    def log(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        for index, record in self._left():
            try:
                check_finite(step, metrics["loss"][:, index])
            except NonFiniteLoss as error:
                self.failures[index] = str(error)
                continue
            record.meter.log(step, {name: value[:, index] for name, value in metrics.items()})
        if not self._left():
            raise _AllDiverged

    def evaluate(self, step: int, state: TrainState) -> None:
        for index, record in self._left():
            try:
                record.evaluate(step, _member(state, index))
            except NonFiniteLoss as error:
                self.failures[index] = str(error)

    def save(self, step: int, state: TrainState) -> None:
        for index, record in self._left():
            record.save(step, _member(state, index))

    def conclude(
        self, state: TrainState, started: float, goodput: Mapping[str, float]
    ) -> dict[Path, dict[str, Any]]:
        """What each run came to, written in its work directory."""
        step, baselines = int(state.step), None
        found: dict[Path, dict[str, Any]] = {}
        for index, record in enumerate(self.records):
            results = found[record.directory] = {"workdir": str(record.directory), "step": step}
            if index in self.failures:
                found[record.directory] = {"error": self.failures[index]}
            elif step < record.built.experiment.training.num_steps:
                results["stopped"] = True
            else:
                results |= record.conclude(_member(state, index), started, baselines)
                results |= {"goodput": dict(goodput), "fan": len(self.records)}
                baselines = results["baselines"]
        seconds = time.monotonic() - started
        for index, record in enumerate(self.records):
            results = found[record.directory]
            if "validation" not in results:
                continue
            results["timings"]["total_seconds"] = seconds
            try:
                write_results(record, _member(state, index), results)
            except (ValueError, OSError) as error:
                found[record.directory] = {"error": str(error)}
        return found


def init_states(members: Sequence[BuiltExperiment]) -> list[TrainState]:
    """The states that the runs start from alone."""
    return [init_state(p.model, p.optimizer, p.example, p.mesh, p.experiment.seed) for p in members]


def stacked(states: Sequence[TrainState]) -> TrainState:
    """States of one step as that of a fan."""
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return together._replace(step=states[0].step)


def make_train_step(members: Sequence[BuiltExperiment]) -> TrainStep:
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
        _, train_step = make_training(
            configs[0],
            members[0].model,
            lambda step: rates_n[step],
            members[0].declarations,
            decay,
            members[0].fan_in_out,
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

    def __init__(self, of_runs: Sequence[Batches]):
        self._of_runs = of_runs

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        batches = [batches[step] for batches in self._of_runs]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
