r"""Trains all runs of a sweep on this machine, or goes on where the same directory stopped.

  python -m launch.sweep --config=configs/sweeps/learning_rates.py --plan
  python -m launch.sweep --config=configs/sweeps/learning_rates.py --sweepdir=sweeps/rates \
      --processes=2
  python -m launch.sweep --config=configs/sweeps/learning_rates.py --sweepdir=sweeps/rates \
      --together=8
  python -m launch.sweep --sweepdir=sweeps/rates --table

A sweep is a Python file with get_sweep() -> dict of experiments by name;
lm_jax/sweeps/search_space.py makes them. Nothing is written before every run is known to be valid,
to have its data and to build its model. The sweep directory receives sweep.json, runs/NAME-ADDRESS,
each a work directory like any other, logs/NAME-ADDRESS.log and, after each run, results.csv, which
launch.scaling_law reads.

An address is a hash of what decides a run's numbers. The same command goes on: runs that are
finished are skipped, others continue from their last checkpoint or are tried again. One that fails
does not stop the others; it is listed with its error, and the exit status is 1. SIGTERM and
interrupts reach the runs, which save their state; the exit status is 75 then. The last line of the
output is JSON.

launch/clusters/sweep.sbatch has SLURM run them, a task of an array each.
"""

import contextlib
import math
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from launch import program
from lm_jax import data
from lm_jax.build import expected_sizes
from lm_jax.errors import UserError
from lm_jax.parallel import processes as hosts
from lm_jax.runs import train as trainer
from lm_jax.sweeps import directory as sweep_directory
from lm_jax.sweeps import local_executor as local
from lm_jax.sweeps import vmapped_runs as fans
from lm_jax.sweeps.plan import (
    Planned,
    Seconds,
    as_measured,
    at_rate,
    duration,
    make_plan,
    num_shapes,
    refuse_what_cannot_fit,
    table_of,
    total_flops,
)
from lm_jax.sweeps.results import results, write_results
from lm_jax.sweeps.search_space import Sweep, trials_of
from lm_jax.sweeps.warm_starts import as_trained, begin, branch_step, predecessors, waits

CONFIG = flags.DEFINE_string("config", None, "The sweep: a file of configs/sweeps, or FILE:CHOICE.")
SWEEPDIR = flags.DEFINE_string("sweepdir", None, "Where the sweep is kept; the same one resumes.")
PLAN = flags.DEFINE_bool("plan", False, "Print the plan; read no text, run nothing.")
TABLE = flags.DEFINE_bool("table", False, "Write results.csv again; run nothing.")
PROCESSES = flags.DEFINE_integer(
    "processes", 1, "Runs at a time; 0: write sweep.json, for others to run.", lower_bound=0
)
FLOPS_PER_SECOND = flags.DEFINE_float(
    "flops_per_second", None, "Of one run, to estimate the time until runs have finished."
)
TOGETHER = flags.DEFINE_integer(
    "together",
    1,
    "Runs of one shape that a process trains as one program, at most: fewer where half of the "
    "memory does not hold their states. Activations, and the memory of GPUs, are yours to know.",
    lower_bound=1,
)
RUN = flags.DEFINE_multi_string(
    "run",
    None,
    "Train only this run of --sweepdir in this process: a name, or a number from 0; several times: "
    "these together.",
)
STOP_WITH_STDIN = flags.DEFINE_bool(
    "stop_with_stdin", False, "With --run: save and stop when the standard input ends."
)

_SECONDS_TO_SAVE = 600  # how long a run waits for the process that had it before


def main() -> dict[str, Any]:
    """Prints the plan and, if it is to be run, a line after each run; returns what they came to."""
    if RUN.value:
        return _train(_directory(), RUN.value)
    # The devices are for the runs: on a GPU this process would take most of its memory.
    jax.config.update("jax_platforms", "cpu")
    if TABLE.value:
        return _summary(_directory())
    rate = FLOPS_PER_SECOND.value
    if rate is not None and not rate > 0:
        raise UserError(f"--flops_per_second={rate}; expected a number above 0")
    trials = trials_of(_read_sweep())
    if PLAN.value:
        plan = make_plan(trials, expected_sizes)
        _say_plan(plan, Path(SWEEPDIR.value) if SWEEPDIR.value else None)
        return {
            "runs": len(plan),
            "shapes": num_shapes(plan),
            "training_flops": total_flops(plan),
            "training_flops_with_branches": total_flops(as_trained(plan)),
        }
    directory = _directory()
    sweep_directory.refuse_another_sweep(directory, trials)
    shares = local.shares(PROCESSES.value)
    # The data is prepared here, so that no two runs do it at the same time.
    plan = make_plan(trials, lambda experiment: data.prepare(experiment.data).description["sizes"])
    refuse_what_cannot_fit(plan, local.memory_of_a_process(PROCESSES.value))
    directory.mkdir(parents=True, exist_ok=True)
    with sweep_directory.lock(directory / "lock"):
        sweep_directory.write_plan(directory, plan)
        _say_plan(plan, directory)
        stopped = _run(directory, plan, shares)
        outcome = _summary(directory)
    if not shares:
        return outcome
    if stopped or outcome["finished"] + len(outcome["errors"]) < outcome["runs"]:
        program.say("stopped; the same command goes on")
        return outcome | {"stopped": True}
    return outcome | ({"failed": True} if outcome["errors"] else {})


def _directory() -> Path:
    if not SWEEPDIR.value:
        raise UserError("give --sweepdir: where is the sweep to be kept?")
    return Path(SWEEPDIR.value)


def _read_sweep() -> Sweep:
    if not CONFIG.value:
        raise UserError("give --config: a file with get_sweep(), such as those of configs/sweeps")
    path, colon, choice = CONFIG.value.partition(":")
    if not Path(path).is_file():
        raise UserError(
            f"--config={path}: no such file; the shipped sweeps are configs/sweeps/*.py"
        )
    get_sweep = runpy.run_path(path).get("get_sweep")
    if not callable(get_sweep):
        raise UserError(f"{path} has no get_sweep(); expected a dict of experiments by name of it")
    try:
        return get_sweep(choice) if colon else get_sweep()
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _train(directory: Path, names: Sequence[str]) -> dict[str, Any]:
    """Trains one run, or a fan, until SIGTERM or until the process that started it is gone."""
    plan = sweep_directory.read_plan(directory)
    by_name = {str(i): run for i, run in enumerate(plan)} | {run.name: run for run in plan}
    for name in names:
        if name not in by_name:
            raise UserError(
                f"--run={name}: {directory} has {len(plan)} runs and none of that name or number"
            )
    fan = {sweep_directory.workdir_of(directory, by_name[n]): by_name[n] for n in names}
    with contextlib.ExitStack() as stack:
        for run in fan.values():
            path = sweep_directory.log_of(directory, run)
            stack.enter_context(sweep_directory.lock(path, _SECONDS_TO_SAVE))
        for run in fan.values():
            sweep_directory.note_beginning(directory, run)
        stop_requested = hosts.stop_requests()
        if STOP_WITH_STDIN.value:
            local.stop_with_parent()
        try:
            for run in fan.values():
                if begun := begin(directory, plan, run):
                    program.say(f"{run.name} goes on from step {begun[1]} of {begun[0]}")
            if len(fan) == 1:
                ((place, run),) = fan.items()
                kept = branch_step(run.experiment)
                return trainer.train(run.experiment, place, stop_requested, keep_step=kept)
            found = fans.train({p: run.experiment for p, run in fan.items()}, stop_requested)
        except Exception as error:
            # What a child prints goes to the log of the first.
            for run in list(fan.values())[1 if STOP_WITH_STDIN.value else 0 :]:
                sweep_directory.note_failure(directory, run, str(error))
            raise
        errors = {fan[p].name: each["error"] for p, each in found.items() if "error" in each}
        for name, message in errors.items():
            sweep_directory.note_failure(directory, by_name[name], message)
        stopped = any(each.get("stopped") for each in found.values())
        outcome = {"runs": len(found), "errors": errors}
        return outcome | ({"stopped": True} if stopped else {"failed": True} if errors else {})


def _run(directory: Path, plan: Sequence[Planned], shares: list[local.Share]) -> bool:
    """Runs what is not finished; whether a signal stopped it."""
    unfinished = [run for run in plan if sweep_directory.finished(directory, run) is None]
    groups = _groups(unfinished, len(shares)) if shares else {}
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: signals.append(received))

    def ended(name: str, exit_status: int, running: list[str]) -> None:
        for run in groups[name]:
            unsaid = sweep_directory.status(directory, run) not in ("finished", "failed")
            if exit_status not in (0, program.PREEMPTED) and unsaid and not signals:
                how = f"signal {-exit_status}" if exit_status < 0 else f"exit status {exit_status}"
                log = sweep_directory.log_of(directory, groups[name][0])
                sweep_directory.note_failure(
                    directory, run, f"its process ended with {how}; see {log}"
                )
        rows = results(directory, [run.name for key in running for run in groups[key]])
        write_results(directory, rows)
        for run in groups[name]:
            _say_progress(plan, rows, run.name, len(shares))

    command = [sys.executable, "-m", "launch.sweep", f"--sweepdir={directory}", "--stop_with_stdin"]
    local.run_all(
        {key: [*command, *(f"--run={run.name}" for run in fan)] for key, fan in groups.items()},
        {key: sweep_directory.log_of(directory, fan[0]) for key, fan in groups.items()},
        shares,
        lambda: bool(signals),
        ended,
        waits(plan, groups),
    )
    return bool(signals)


def _groups(left: Sequence[Planned], processes: int) -> dict[str, list[Planned]]:
    """What is trained together, by the name of its first run.

    No more than have their states in half of the memory, and no fewer groups than processes.
    """
    by_name = {run.name: run for run in left}
    descends = {run.name: run.experiment for run in left if run.cost.flops_per_step}
    memory, groups = local.memory_of_a_process(processes), {}
    for names in fans.fans_of(descends) if TOGETHER.value > 1 else []:
        size = min(TOGETHER.value, math.ceil(len(names) / processes))
        if memory:
            most = memory / 2 // max(by_name[names[0]].cost.state_bytes, 1)
            size = max(min(size, int(most)), 1)
        for start in range(0, len(names), size):
            groups[names[start]] = [by_name[name] for name in names[start : start + size]]
    grouped = {run.name for group in groups.values() for run in group}
    return groups | {run.name: [run] for run in left if run.name not in grouped}


def _seconds(rows: Sequence[Mapping[str, Any]]) -> Seconds | None:
    """How long a run takes, from those that are finished, else from --flops_per_second."""
    done = [row for row in rows if row["status"] == "finished" and row["training_flops"]]
    shares = [1 - (row["branch_step"] or 0) / row["steps"] for row in done]
    flops = [row["training_flops"] * share for row, share in zip(done, shares, strict=True)]
    measured = as_measured(flops, [row["seconds"] for row in done])
    return measured or (at_rate(FLOPS_PER_SECOND.value) if FLOPS_PER_SECOND.value else None)


def _say_plan(plan: Sequence[Planned], directory: Path | None) -> None:
    begun = directory is not None and (directory / "sweep.json").exists()
    seconds = _seconds(results(directory) if directory and begun else [])
    alone, plan = plan, as_trained(plan)
    statuses = [sweep_directory.status(directory, r) if directory else "waiting" for r in plan]
    for line in table_of(plan, seconds, statuses):
        program.say(line)
    left = [r for r, status in zip(plan, statuses, strict=True) if status != "finished"]
    time_left = "the time is unknown until a run has finished; --flops_per_second estimates it"
    if seconds:
        time_left = f"about {duration(sum(seconds(r.cost) for r in left))} of one process"
    if count := len(predecessors(alone)):
        program.say(
            f"{count} runs go on from where the decay of a shorter one begins, without which all "
            f"were {total_flops(alone):.3g} FLOPs"
        )
    largest = max(run.cost.state_bytes for run in plan)
    program.say(
        f"distinct shapes: {num_shapes(plan)}, the largest state {largest / 1e6:,.1f} MB; "
        f"{len(left)} runs to go, {total_flops(left):.3g} FLOPs: {time_left}"
    )


def _say_progress(
    plan: Sequence[Planned], rows: Sequence[Mapping[str, Any]], name: str, processes: int
) -> None:
    statuses, plan = {row["name"]: row["status"] for row in rows}, as_trained(plan)
    done = [run for run in plan if statuses[run.name] == "finished"]
    left = [run for run in plan if statuses[run.name] not in ("finished", "failed")]
    share = total_flops(done) / max(total_flops(plan), 1)
    seconds, row = _seconds(rows), next(row for row in rows if row["name"] == name)
    to_go = ""
    if seconds and left:
        to_go = f", about {duration(sum(seconds(r.cost) for r in left) / processes)} left"
    told = f"failed: {row['error']}" if row["error"] else row["status"]
    if row["validation_loss"] is not None:
        told = f"validation loss {row['validation_loss']:.4f}"
    program.say(
        f"{len(done)} of {len(plan)} finished, {share:.0%} of the FLOPs{to_go}: {name}, {told}"
    )


def _summary(directory: Path) -> dict[str, Any]:
    """Writes the results of all runs that ended, and returns how they did."""
    rows = results(directory)
    path = write_results(directory, rows)
    errors = {row["name"]: row["error"] for row in rows if row["status"] == "failed"}
    for name, error in errors.items():
        program.say(f"failed: {name}: {error}")
    program.say(f"results: {path}")
    return {
        "sweepdir": str(directory),
        "runs": len(rows),
        "finished": sum(row["status"] == "finished" for row in rows),
        "errors": errors,
        "results": str(path),
    }


if __name__ == "__main__":
    program.run(main)
