"""Replays one step of a run, from the checkpoint before it, and takes its update apart.

Batches and draws are functions of the step, and a checkpoint holds all else that a step reads. So
nothing has to be kept of an update that went wrong to see it once more.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax import data
from lm_jax.analysis.update_parts import RowPart, UpdateParts
from lm_jax.build import BuiltExperiment, build_experiment, training_batches
from lm_jax.config.experiment import Experiment
from lm_jax.data.interface import Batches
from lm_jax.errors import MeshError, UserError
from lm_jax.parallel import processes, sharding
from lm_jax.parallel.mesh import AUTO
from lm_jax.runs import workdir
from lm_jax.runs.initial_state import fresh_state, inherited_variables
from lm_jax.runs.origin import continued, origin, rows_passed
from lm_jax.runs.restore import restore
from lm_jax.runs.run_data import data_of
from lm_jax.telemetry.json_files import finite, read_metrics
from lm_jax.telemetry.run_files import read_data_facts
from lm_jax.telemetry.run_log import Quiet
from lm_jax.telemetry.throughput import Meter
from lm_jax.training.checkpoints import Checkpoints
from lm_jax.training.loop import end_of_dispatch
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import jit_train_steps

_UNMOVED: Mapping[str, str] = {}
_COMPARED = ("loss", "gradient_norm")


class Replay(NamedTuple):
    """What a step of a run did."""

    step: int
    start: int  # the step of the checkpoint that it was replayed from; 0: the first state
    metrics: dict[str, float]  # of the step alone
    by_parameter: dict[str, float]  # norm of the gradient; of a stack that of each layer
    rows: list[RowPart]  # of the batch: see `UpdateParts.by_row`
    texts: list[str]  # of these rows; "" where they are no text
    batch: Mapping[str, np.ndarray]
    compared: list[int]  # steps of the rows of metrics.jsonl that were computed again
    differing: list[int]  # of those, the ones with another loss or gradient norm


def replay(
    directory: Path,
    step: int,
    *,
    num_rows: int = 5,
    moved: Mapping[str, str] = _UNMOVED,
    log: Callable[[str], None] = print,
) -> Replay:
    """Returns what a step of a run did; nothing is written.

    The steps since the checkpoint are taken as the run took them, in the same dispatches.

    Args:
      step: counted from 1, as in metrics.jsonl.
      num_rows: rows of the batch whose gradient is measured alone.
      moved: where the data is now, by the field of `data` that said where it was.
      log: called with remarks.

    Raises:
      UserError: the directory holds no such step of a run, or its data cannot be read.
    """
    experiment = workdir.read_experiment(directory)
    _refuse_without_steps(directory, experiment, step)
    dataset = data_of(directory, experiment.data, moved)
    built = _built(experiment, dataset.sizes, log)
    if built.model.is_count_based:
        raise UserError(f"the model of {directory} counts: it took no step that could be replayed")
    made = training_batches(built, dataset)
    batches = continued(made, rows_passed(directory, experiment), built.experiment)
    state, start = _state_before(directory, built, dataset.tokenizer, step, log)
    steps, batch = _Steps(built, batches, start), batches[step - 1]
    with sharding.on_mesh(built.mesh):
        state = steps.until(state, step)
        parts = UpdateParts(built, steps.one_by_one(state, step), batch)
        by_parameter, by_row = parts.by_parameter(), parts.by_row(num_rows)
        metrics = steps.metrics_of(state, step)
    compared, differing = steps.compare(directory)
    texts = [_text(batch, row.row, dataset.tokenizer) for row in by_row]
    return Replay(step, start, metrics, by_parameter, by_row, texts, batch, compared, differing)


def _refuse_without_steps(directory: Path, experiment: Experiment, step: int) -> None:
    """Raises UserError if a run took no such step itself."""
    if processes.several():
        raise UserError("a step is replayed by one process; start this on one host")
    if read_data_facts(directory).get("imported_from"):
        raise UserError(f"{directory} was imported: it took no steps that could be replayed")
    if not 1 <= step <= experiment.training.num_steps:
        raise UserError(
            f"{directory} has no step {step}; expected one from 1 to training.num_steps "
            f"{experiment.training.num_steps}"
        )
    forked = origin(directory)
    if forked.step is not None and step <= forked.step:
        raise UserError(
            f"{directory} was forked at step {forked.step}: its origin took step {step}; replay "
            f"it there: --workdir={forked.run}"
        )


def _built(
    experiment: Experiment, sizes: Mapping[str, int], log: Callable[[str], None]
) -> BuiltExperiment:
    """Returns the functions of a run on its own mesh or, if that does not fit, on one device."""
    try:
        return build_experiment(experiment, sizes)
    except MeshError:
        log(f"mesh {experiment.mesh} does not fit here: numbers may be rounded otherwise")
        one_device = dataclasses.replace(experiment, mesh=AUTO)
        return build_experiment(one_device, sizes, jax.devices()[:1])


def _state_before(
    directory: Path,
    built: BuiltExperiment,
    tokenizer: data.Tokenizer | None,
    step: int,
    log: Callable[[str], None],
) -> tuple[TrainState, int]:
    """Returns the newest state that a run saved before a step, and how many steps it had taken."""
    config = built.experiment.checkpoint
    with contextlib.closing(
        Checkpoints(directory / "checkpoints", config, read_only=True)
    ) as checkpoints:
        for saved in checkpoints.steps():
            if saved < step:
                try:
                    _, state = restore(built, checkpoints, str(saved), log)
                    return state, saved
                except UserError as error:
                    log(f"{error}; an earlier one is read")
    if origin(directory).step is not None:
        raise UserError(f"{directory} is a fork without a checkpoint before step {step}")
    inherited = inherited_variables(built.experiment, tokenizer)
    return fresh_state(built, inherited)[0], 0


class _Steps:
    """Takes the steps of a run as it took them: in dispatches, whose ends depend on steps alone."""

    def __init__(self, built: BuiltExperiment, batches: Batches, start: int):
        self._built, self._batches, self._start, self._at = built, batches, start, start
        self._train_steps = jit_train_steps(built.train_step)
        self._metrics: list[tuple[int, dict[str, np.ndarray]]] = []  # (last step, metrics [K])

    def until(self, state: TrainState, step: int) -> TrainState:
        """Returns the state before the dispatch with a step; consumes the state."""
        while (end := end_of_dispatch(self._at, self._built.experiment)) < step:
            state = self._dispatch(state, end)
        return state

    def one_by_one(self, state: TrainState, step: int) -> TrainState:
        """Returns the state right before a step of the next dispatch."""
        train_step = jax.jit(self._built.train_step)
        sharded = sharding.batch_sharding(self._built.mesh)
        for index in range(self._at, step - 1):
            state, _ = train_step(state, sharding.place_batch(self._batches[index], sharded))
        return state

    def metrics_of(self, state: TrainState, step: int) -> dict[str, float]:
        """Returns the metrics of a step of the next dispatch; consumes the state."""
        before = self._at
        self._dispatch(state, end_of_dispatch(before, self._built.experiment))
        _, metrics = self._metrics[-1]
        return {name: float(values[step - 1 - before]) for name, values in metrics.items()}

    def _dispatch(self, state: TrainState, end: int) -> TrainState:
        rows = [self._batches[index] for index in range(self._at, end)]
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        sharded = sharding.batch_sharding(self._built.mesh, leading_axes=1)
        state, metrics = self._train_steps(state, sharding.place_batch(stacked, sharded))
        self._metrics.append((end, {name: np.asarray(x) for name, x in metrics.items()}))
        self._at = end
        return state

    def compare(self, directory: Path) -> tuple[list[int], list[int]]:
        """Returns the steps of recorded rows that were computed again, and which of them differ."""
        experiment, noted = self._built.experiment, _Noted()
        meter = Meter(
            noted,
            unit=self._built.objective.unit,
            units_per_step=1,
            every_steps=experiment.training.log_every_steps,
            num_steps=self._built.num_steps,
            started=0.0,
        )
        for end, metrics in self._metrics:
            meter.log(end, metrics)
        recorded = {row["step"]: row for row in read_metrics(directory) if row["kind"] == "train"}
        again = {step: finite(row) for step, row in noted.rows.items() if step in recorded}
        differing = [
            step
            for step, row in again.items()
            if any(row[name] != recorded[step].get(name) for name in _COMPARED)
        ]
        return list(again), differing


class _Noted(Quiet):
    """A log that keeps its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, Mapping[str, Any]] = {}

    def training(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keeps a row."""
        self.rows[step] = dict(metrics)


def _text(batch: Mapping[str, np.ndarray], row: int, tokenizer: data.Tokenizer | None) -> str:
    """Returns the text that a row of a batch reads; "" where it is none."""
    inputs = batch["inputs"]
    if tokenizer is None or inputs.ndim != 2 or not np.issubdtype(inputs.dtype, np.integer):
        return ""
    return tokenizer.decode(inputs[row])
