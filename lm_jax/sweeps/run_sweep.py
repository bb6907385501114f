"""Plans a sweep, trains its runs, and sums up its results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax import data
from lm_jax.build import expected_sizes
from lm_jax.config.serialization import allow_code
from lm_jax.sweeps import directory as sweep_directory
from lm_jax.sweeps import local_executor
from lm_jax.sweeps.execute import execute
from lm_jax.sweeps.plan import (
    PlannedRun,
    make_plan,
    num_shapes,
    refuse_what_cannot_fit,
    total_flops,
)
from lm_jax.sweeps.progress import describe_best, describe_plan, describe_progress, estimate_seconds
from lm_jax.sweeps.results import results, write_results
from lm_jax.sweeps.search_space import Trial
from lm_jax.sweeps.warm_starts import without_shared_steps

Log = Callable[[str], None]


class Execution(NamedTuple):
    """How the runs of a sweep are trained on this machine."""

    processes: int  # at a time; 0: the sweep is only planned, for others to train
    together: int  # the largest number of runs that a process trains as one program
    command: Sequence[str]  # of a process; `--run=NAME` is added for each of its runs
    flops_per_second: float | None  # of one run, to estimate the time before any has finished


def show_plan(
    trials: Mapping[str, Trial],
    directory: Path | None,
    flops_per_second: float | None,
    log: Log,
) -> dict[str, Any]:
    """Logs the plan of a sweep and returns its size; reads no data.

    Args:
      directory: where the sweep may have started.

    Raises:
      UserError: a run is not valid.
    """
    _allow_code(trials)
    plan = make_plan(trials, expected_sizes)
    _log_plan(plan, directory, flops_per_second, log)
    log("no data was read: vocabularies count at their largest, data.tokenizer.vocab_size")
    return {
        "runs": len(plan),
        "shapes": num_shapes(plan),
        "training_flops": total_flops(plan),
        "training_flops_with_forks": total_flops(without_shared_steps(plan)),
    }


def run_sweep(
    trials: Mapping[str, Trial], directory: str | Path, execution: Execution, log: Log
) -> dict[str, Any]:
    """Trains the unfinished runs of a sweep, logs how each ended, and returns a summary.

    Returns:
      `summarize`, with `"stopped": True` if runs are left, or `"failed": True` if runs failed.

    Raises:
      UserError: a run is not valid or does not fit this machine, or the directory holds another
        sweep or is in use.
    """
    directory = Path(directory)
    _allow_code(trials)
    sweep_directory.refuse_another_sweep(directory, trials)
    shares = local_executor.shares(execution.processes)
    # The data is prepared here, so that no two runs prepare it at the same time.
    plan = make_plan(trials, lambda experiment: data.prepare(experiment.data).sizes)
    refuse_what_cannot_fit(plan, local_executor.bytes_per_process(execution.processes))
    directory.mkdir(parents=True, exist_ok=True)
    rate = execution.flops_per_second

    def on_end(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        for line in describe_progress(plan, rows, names, len(shares), rate):
            log(line)

    def on_stop() -> None:
        log("stopping: the runs in progress end their dispatch and save their state")

    with sweep_directory.lock(directory / "lock"):
        sweep_directory.write_plan(directory, plan)
        _log_plan(plan, directory, rate, log)
        stopped = execute(
            directory, plan, shares, execution.together, execution.command, on_end, on_stop
        )
        outcome = summarize(directory, log)
    if not shares:
        return outcome
    if stopped or outcome["finished"] + len(outcome["errors"]) < outcome["runs"]:
        log("stopped; the same command resumes the sweep")
        return outcome | {"stopped": True}
    return outcome | ({"failed": True} if outcome["errors"] else {})


def _allow_code(trials: Mapping[str, Trial]) -> None:
    for trial in trials.values():
        allow_code(trial.experiment)


def summarize(directory: str | Path, log: Log) -> dict[str, Any]:
    """Writes the results of all runs, logs the failed ones, and returns the counts."""
    directory = Path(directory)
    rows = results(directory)
    path = write_results(directory, rows)
    errors = {row["name"]: row["error"] for row in rows if row["status"] == "failed"}
    for name, error in errors.items():
        log(f"failed: {name}: {error}")
    for line in describe_best(rows):
        log(line)
    log(f"results: {path}; pictures: python -m launch.sweep_report --sweepdir={directory}")
    return {
        "sweepdir": str(directory),
        "runs": len(rows),
        "finished": sum(row["status"] == "finished" for row in rows),
        "errors": errors,
        "results": str(path),
    }


def _log_plan(
    plan: list[PlannedRun], directory: Path | None, flops_per_second: float | None, log: Log
) -> None:
    begun = directory is not None and (directory / "sweep.json").exists()
    rows = results(directory) if directory and begun else []
    for line in describe_plan(plan, directory, estimate_seconds(rows, flops_per_second)):
        log(line)
