"""The directory of a sweep: its plan, and a work directory, a log and a status for each run."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from lm_jax import trusted_code
from lm_jax.atomic_files import make_directory, open_to_append
from lm_jax.config.serialization import from_dict, to_dict
from lm_jax.costs.run_cost import Cost
from lm_jax.errors import UserError
from lm_jax.file_names import is_file_name
from lm_jax.json_values import fault_of, read_object, shown
from lm_jax.runs import workdir
from lm_jax.sweeps.plan import PlannedRun
from lm_jax.sweeps.run_logs import ERROR, START, last_error
from lm_jax.sweeps.search_space import Trial, address
from lm_jax.telemetry.json_files import write_json


def workdir_of(directory: Path, run: PlannedRun) -> Path:
    """Returns the work directory of a run."""
    return directory / "runs" / run.directory


def log_of(directory: Path, run: PlannedRun) -> Path:
    """Returns the log of a run: the output of its processes."""
    return directory / "logs" / f"{run.directory}.log"


def write_plan(directory: Path, plan: Sequence[PlannedRun]) -> None:
    """Writes `sweep.json`, which `read_plan` reads, and makes the folders `runs` and `logs`."""
    for name in ("runs", "logs"):
        make_directory(directory / name)
    entries = {
        run.name: {
            "address": run.address,
            "labels": dict(run.labels),
            "cost": run.cost._asdict(),
            "experiment": to_dict(run.experiment),
        }
        for run in plan
    }
    trusted_code.remember(entries)
    write_json(directory / "sweep.json", entries)


def read_plan(directory: Path) -> list[PlannedRun]:
    """Returns the runs of a sweep.

    Raises:
      UserError: the directory holds no sweep, or names code that the user does not trust.
    """
    path = directory / "sweep.json"
    try:
        entries = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} holds no sweep: there is no sweep.json") from None
    if not entries:
        raise UserError(f"{path} holds no runs; restore it, or choose another --sweepdir")
    try:
        return [_planned(name, entry) for name, entry in entries.items()]
    except trusted_code.UntrustedCode:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _CostEntry(TypedDict):
    """The fields of `Cost`."""

    parameters: int
    non_embedding_parameters: int
    steps: int
    training_tokens: int
    flops_per_step: int
    state_bytes: int


class _Entry(TypedDict):
    """A run in `sweep.json`."""

    address: str
    labels: dict[str, Any]
    cost: _CostEntry
    experiment: dict[str, Any]


def _planned(name: str, entry: Any) -> PlannedRun:
    """Returns a run of `sweep.json`. Raises UserError for what is no run of a plan."""
    if fault := fault_of(entry, _Entry):
        raise UserError(f"run {shown(name)}: {fault}; restore it, or choose another --sweepdir")
    cost = Cost(**{field: entry["cost"][field] for field in Cost._fields})
    experiment = from_dict(entry["experiment"])
    run = PlannedRun(name, entry["address"], experiment, entry["labels"], cost)
    if not is_file_name(run.directory):  # its files are written below the sweep's
        raise UserError(f"run {shown(name)} is no name of a folder; restore it")
    return run


def refuse_another_sweep(directory: Path, trials: Mapping[str, Trial]) -> None:
    """Raises UserError if the directory holds other files, or a sweep that shares no run.

    A sweep that shares a run is the same sweep after a change: runs that it no longer has stay on
    disk, and its results leave them out.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; --sweepdir is a directory")
    if not directory.exists() or not any(directory.iterdir()):
        return
    old_names = {run.address: run.name for run in read_plan(directory)}
    if not any(address(trial.experiment) in old_names for trial in trials.values()):
        raise UserError(
            f"{directory} holds another sweep ({next(iter(old_names.values()))}, ...), of which "
            "this one has no run; choose another --sweepdir"
        )


def finished_results(directory: Path, run: PlannedRun) -> dict[str, Any] | None:
    """Returns the results of a run; None if it is not finished."""
    return workdir.results_of(run.experiment, workdir_of(directory, run))


def failure_message(directory: Path, run: PlannedRun) -> str:
    """Returns the error of the last attempt at a run; "" if it did not fail."""
    return last_error(log_of(directory, run))


def log_start(directory: Path, run: PlannedRun) -> None:
    """Adds a line to the log of a run that separates this attempt from earlier ones."""
    _append(directory, run, f"{START}{run.name}, {time.strftime('%Y-%m-%d %H:%M:%S')}")


def log_failure(directory: Path, run: PlannedRun, message: str) -> None:
    """Adds an error to the log of a run whose process could not print it."""
    _append(directory, run, ERROR + " ".join(message.split()))


def _append(directory: Path, run: PlannedRun, line: str) -> None:
    with open_to_append(log_of(directory, run)) as file:
        file.write(f"\n{line}\n")  # a killed process may have left half a line


def status(directory: Path, run: PlannedRun) -> str:
    """Returns `finished`, `failed`, `stopped` (it has a work directory) or `waiting`."""
    if finished_results(directory, run) is not None:
        return "finished"
    if failure_message(directory, run):
        return "failed"
    begun = (workdir_of(directory, run) / "config.json").exists()
    return "stopped" if begun else "waiting"


@contextlib.contextmanager
def lock(path: Path, seconds: float = 0) -> Iterator[None]:
    """Holds an exclusive lock on a file; the system frees it when this process ends.

    Args:
      seconds: how long to wait for another process to free it.

    Raises:
      UserError: another process still holds the lock after that time.
    """
    import fcntl

    deadline = time.monotonic() + seconds
    with open_to_append(path) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"another process is at work ({path} is locked); wait for it, or stop it"
                    ) from None
            time.sleep(0.1)
        yield
