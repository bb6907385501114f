"""Executes a sweep: processes that train its runs, and what each of them does."""

import contextlib
import math
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.errors import UserError
from lm_jax.parallel import processes
from lm_jax.runs.train import Request
from lm_jax.runs.train import train_runs as train_group
from lm_jax.runs.vmapped_runs import groups_of
from lm_jax.sweeps import local_executor
from lm_jax.sweeps.directory import (
    finished_results,
    lock,
    log_failure,
    log_of,
    log_start,
    read_plan,
    status,
    workdir_of,
)
from lm_jax.sweeps.plan import PlannedRun
from lm_jax.sweeps.results import results, write_results
from lm_jax.sweeps.warm_starts import dependencies, fork, fork_step

_LOCK_SECONDS = 600  # a run waits this long for the process that trained it before


def execute(
    directory: Path,
    plan: Sequence[PlannedRun],
    shares: list[local_executor.Share],
    together: int,
    command: Sequence[str],
    on_end: Callable[[Sequence[Mapping[str, Any]], Sequence[str]], None],
    on_stop: Callable[[], None],
) -> bool:
    """Trains the unfinished runs in processes of their own; returns whether a signal stopped it.

    Args:
      shares: a share of the machine for each process; empty: nothing is trained.
      together: the largest number of runs that a process trains as one program.
      command: the arguments to which `--run=NAME` is added once for each run of a process.
      on_end: (rows of all results, names of runs), called after each process, which trained them.
      on_stop: called once when a signal has come, before the runs in progress have saved.
    """
    unfinished = [run for run in plan if finished_results(directory, run) is None]
    groups = group_runs(unfinished, len(shares), together) if shares else {}
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: signals.append(received))

    def on_exit(name: str, exit_status: int, running: list[str]) -> None:
        if exit_status not in (0, processes.PREEMPTED) and not signals:
            _log_silent_failures(directory, groups[name], exit_status)
        rows = results(directory, [run.name for key in running for run in groups[key]])
        write_results(directory, rows)
        on_end(rows, [run.name for run in groups[name]])

    told: list[bool] = []

    def stop_requested() -> bool:
        if signals and not told:
            told.append(True)
            on_stop()
        return bool(signals)

    local_executor.run_all(
        {key: [*command, *(f"--run={run.name}" for run in runs)] for key, runs in groups.items()},
        {key: log_of(directory, runs[0]) for key, runs in groups.items()},
        shares,
        stop_requested,
        on_exit,
        dependencies(plan, groups),
    )
    return bool(signals)


def group_runs(
    runs: Sequence[PlannedRun], num_processes: int, together: int
) -> dict[str, list[PlannedRun]]:
    """Returns the runs that one process trains as one program, by the name of the first.

    The states of a group take at most half of a process's memory, and there are at least as many
    groups as processes.

    Args:
      together: the largest size of a group.
    """
    by_name = {run.name: run for run in runs}
    trained = {run.name: run.experiment for run in runs if run.cost.flops_per_step}
    memory = local_executor.bytes_per_process(num_processes)
    groups: dict[str, list[PlannedRun]] = {}
    for names in groups_of(trained) if together > 1 else []:
        size = min(together, math.ceil(len(names) / num_processes))
        if memory:
            fit = memory / 2 // max(by_name[names[0]].cost.state_bytes, 1)
            size = max(min(size, int(fit)), 1)
        for start in range(0, len(names), size):
            groups[names[start]] = [by_name[name] for name in names[start : start + size]]
    grouped = {run.name for group in groups.values() for run in group}
    return groups | {run.name: [run] for run in runs if run.name not in grouped}


def train_runs(
    directory: Path, names: Sequence[str], stop_with_parent: bool, log: Callable[[str], None]
) -> dict[str, Any]:
    """Trains one run, or several as one program, in this process, until SIGTERM.

    Args:
      directory: the directory of the sweep.
      names: names of runs, or their positions in the plan, counted from 0.
      stop_with_parent: whether to save and stop when the standard input ends, and to leave the
        error of the first run to the parent's log, which receives what this process prints.

    Returns:
      The results of the run; the number of runs and their `errors` for several.

    Raises:
      UserError: the directory holds no sweep or no such run, or a run cannot be trained.
    """
    plan = read_plan(directory)
    by_name = {str(i): run for i, run in enumerate(plan)} | {run.name: run for run in plan}
    for name in names:
        if name not in by_name:
            raise UserError(
                f"--run={name}: {directory} has {len(plan)} runs and none of that name or number"
            )
    runs = {workdir_of(directory, by_name[name]): by_name[name] for name in names}
    with contextlib.ExitStack() as stack:
        for run in runs.values():
            stack.enter_context(lock(log_of(directory, run), _LOCK_SECONDS))
        for run in runs.values():
            log_start(directory, run)
        stop_requested = processes.stop_requests()
        if stop_with_parent:
            local_executor.stop_with_parent()
        try:
            return _train(directory, plan, runs, stop_requested, log)
        except Exception as error:
            # The parent appends what this process prints to the log of the first run.
            for run in list(runs.values())[1 if stop_with_parent else 0 :]:
                log_failure(directory, run, str(error))
            raise


def _train(
    directory: Path,
    plan: Sequence[PlannedRun],
    runs: Mapping[Path, PlannedRun],
    stop_requested: Callable[[int], bool],
    log: Callable[[str], None],
) -> dict[str, Any]:
    for run in runs.values():
        if forked_from := fork(directory, plan, run):
            log(f"{run.name} goes on from step {forked_from[1]} of {forked_from[0]}")
    keep_steps = {path: fork_step(run.experiment) for path, run in runs.items()}
    request = Request(stop_requested, keep_steps=keep_steps)
    found = train_group({path: run.experiment for path, run in runs.items()}, request)
    if len(found) == 1:
        return next(iter(found.values()))
    errors = {}
    for path, outcome in found.items():
        if "error" in outcome:
            errors[runs[path].name] = outcome["error"]
            log_failure(directory, runs[path], outcome["error"])
    stopped = any(outcome.get("stopped") for outcome in found.values())
    result = {"runs": len(found), "errors": errors}
    return result | ({"stopped": True} if stopped else {"failed": True} if errors else {})


def _log_silent_failures(directory: Path, runs: Sequence[PlannedRun], exit_status: int) -> None:
    """Logs how a process ended for each of its runs that has neither results nor an error."""
    cause = f"signal {-exit_status}" if exit_status < 0 else f"exit status {exit_status}"
    message = f"its process ended with {cause}; see {log_of(directory, runs[0])}"
    for run in runs:
        if status(directory, run) not in ("finished", "failed"):
            log_failure(directory, run, message)
