"""The run and the step that a run forked from: recorded in its work directory, and copied there.

A work directory that begins with a copy of another run's checkpoints and metrics up to a step
continues as if it had been stopped at that step. On disk a fork is called a branch, as in sweeps of
earlier versions: `branch.json`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.atomic_files import new_directory
from lm_jax.config.experiment import Experiment, sequences_per_step
from lm_jax.data.interface import Batches
from lm_jax.json_values import read_as
from lm_jax.runs.workdir import read_environment
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.run_files import Branch
from lm_jax.training.checkpoints import finished_steps

Metrics = Mapping[str, Any]  # a row of metrics.jsonl
# What a fork copies besides metrics and checkpoints: a resumed run finds these in its directory.
INPUTS = ("data.json", "tokenizer", "tensorboard")


class Origin(NamedTuple):
    """What `branch.json` records."""

    run: str | None = None  # a name in the same sweep, or a work directory; None: no fork
    step: int | None = None
    environments: Sequence[Mapping[str, Any]] = ()
    """The machines and versions that computed the shared steps."""

    changes: Sequence[str] | None = None
    """Fields that differ, as `path: before -> after`; None in a sweep, whose forks change none of
    their steps: such a run equals the same run alone."""

    rows: int | None = None
    """Rows of batches that were trained on up to `step`; None: those of this run's batches."""

    skipped_rows: int | None = None
    """Rows of batches that nobody was trained on: at this fork, and at those before it."""


def origin(workdir: Path) -> Origin:
    """Returns where a run forked from; an empty record if it did not.

    Raises:
      UserError: `branch.json` is damaged.
      OSError: it cannot be read.
    """
    path = workdir / "branch.json"
    if not path.exists():
        return Origin()
    found: dict[str, Any] = {**read_as(path, Branch)}
    return Origin(**{name: found[name] for name in Origin._fields if name in found})


def rows_trained(workdir: Path, experiment: Experiment, step: int) -> int:
    """Returns the rows of batches that a run was trained on up to a step, its origin's included."""
    found, per_step = origin(workdir), sequences_per_step(experiment)
    if found.rows is None or found.step is None:
        return step * per_step
    return found.rows + (step - found.step) * per_step


def rows_of_other_batches(workdir: Path, experiment: Experiment) -> int:
    """Returns how many more rows a run was trained on than its steps times its own batch size."""
    step = origin(workdir).step or 0
    return rows_trained(workdir, experiment, step) - step * sequences_per_step(experiment)


def rows_passed(workdir: Path, experiment: Experiment) -> int:
    """Returns how many more rows a run has passed than its steps times its own batch size.

    It was trained on them with other batch sizes, or its fork skipped them.
    """
    return rows_of_other_batches(workdir, experiment) + (origin(workdir).skipped_rows or 0)


def continued(batches: Batches, extra_rows: int, experiment: Experiment) -> Batches:
    """Returns the batches of a fork, which begin where its origin stopped reading.

    Where the batch size changed, that position is rounded up to a whole batch.

    Args:
      extra_rows: `rows_passed` of its work directory.
    """
    shift = -(-extra_rows // sequences_per_step(experiment))
    return _Shifted(batches, shift) if shift else batches


class _Shifted:
    def __init__(self, batches: Batches, shift: int):
        self._batches, self._shift = batches, shift

    @property
    def note(self) -> str:
        return self._batches.note

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._batches.facts

    def __getitem__(self, step: int) -> Mapping[str, np.ndarray]:
        return self._batches[step + self._shift]


def metrics_until(source: Path, last_step: int, experiment: Experiment) -> list[Metrics]:
    """Returns a run's metrics up to a step, without rows that exist because the run ends there."""
    every = logging_intervals(experiment)
    rows = [row for row in read_metrics(source) if row["step"] <= last_step]
    return [
        row
        for row in rows
        if row["step"] < experiment.training.num_steps
        or (every[row["kind"]] and row["step"] % every[row["kind"]] == 0)
    ]


def logging_intervals(experiment: Experiment) -> dict[str, int]:
    """Returns the steps between two rows of each kind; 0: only the last step is logged."""
    evaluation = experiment.evaluation.every_steps
    return {"train": experiment.training.log_every_steps, "evaluation": evaluation}


def copy_until(
    source: Path, path: Path, forked: Origin, rows: Sequence[Metrics], inputs: Sequence[str]
) -> None:
    """Copies a run as it was at the step of `forked` to a new work directory, and records that.

    The directory appears whole or not at all.

    Args:
      forked: the run and the step; the environments of the source are added.
      rows: the metrics of the new directory.
      inputs: the names of further files and folders to copy, of `INPUTS`.

    Raises:
      OSError: the copy cannot be written.
    """
    with new_directory(path) as partial:
        _copy(source, partial, forked, rows, inputs)


def _copy(
    source: Path, partial: Path, forked: Origin, rows: Sequence[Metrics], inputs: Sequence[str]
) -> None:
    (partial / "checkpoints").mkdir()
    for saved in finished_steps(source / "checkpoints"):
        if saved <= (forked.step or 0):  # includes the best checkpoint so far
            shutil.copytree(source / f"checkpoints/{saved}", partial / f"checkpoints/{saved}")
    for item in inputs:
        if (found := source / item).is_dir():
            shutil.copytree(found, partial / item)
        elif found.exists():
            shutil.copy2(found, partial / item)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (partial / "metrics.jsonl").write_text(text, encoding="utf-8")
    environments = [*origin(source).environments, read_environment(source)]
    record = forked._replace(environments=environments)._asdict()
    kept = {name: value for name, value in record.items() if value is not None}
    (partial / "branch.json").write_text(json.dumps(kept) + "\n")
