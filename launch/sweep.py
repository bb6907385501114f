r"""Trains all runs of a sweep on this machine; the same command resumes it.

  python -m launch.sweep --config=configs/sweeps/learning_rates.py --plan
  python -m launch.sweep --config=configs/sweeps/learning_rates.py --sweepdir=sweeps/rates \
      --processes=2
  python -m launch.sweep --config=configs/sweeps/learning_rates.py --sweepdir=sweeps/rates \
      --together=8
  python -m launch.sweep --sweepdir=sweeps/rates --table

A sweep is a Python file with get_sweep() -> dict of experiments by name;
lm_jax/sweeps/search_space.py makes them. Every run is checked before anything is written: its
configuration, its data and its model. The sweep directory receives sweep.json, the work directories
runs/NAME-ADDRESS, the logs logs/NAME-ADDRESS.log and, after each run, results.csv, which
launch.scaling_law reads. An address is a hash of the fields that decide a run's numbers.

The same command resumes a sweep: it skips finished runs, continues others from their last
checkpoint and retries failed ones. A run that fails does not stop the others; the summary lists its
error, and the exit status is 1. On SIGTERM or an interrupt the runs save their state, and the exit
status is 75. The last line of the output is JSON.

launch/clusters/sweep.sbatch trains the runs under SLURM, one per task of a job array.
"""

import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from launch import program
from lm_jax import data
from lm_jax.build import expected_sizes
from lm_jax.config.config_file import call_config_file
from lm_jax.errors import UserError
from lm_jax.sweeps import directory as sweep_directory
from lm_jax.sweeps import local_executor
from lm_jax.sweeps.execute import execute, train_runs
from lm_jax.sweeps.plan import (
    PlannedRun,
    make_plan,
    num_shapes,
    refuse_what_cannot_fit,
    total_flops,
)
from lm_jax.sweeps.progress import describe_plan, describe_progress, estimate_seconds
from lm_jax.sweeps.results import results, write_results
from lm_jax.sweeps.search_space import Sweep, trials_of
from lm_jax.sweeps.warm_starts import without_shared_steps

CONFIG = flags.DEFINE_string("config", None, "The sweep: a file of configs/sweeps, or FILE:CHOICE.")
SWEEPDIR = flags.DEFINE_string("sweepdir", None, "The directory of the sweep, to start or resume.")
PLAN = flags.DEFINE_bool("plan", False, "Print the plan; read no data, train nothing.")
TABLE = flags.DEFINE_bool("table", False, "Rebuild results.csv; train nothing.")
PROCESSES = flags.DEFINE_integer(
    "processes", 1, "Processes at a time; 0: only write sweep.json, for SLURM.", lower_bound=0
)
FLOPS_PER_SECOND = flags.DEFINE_float(
    "flops_per_second",
    None,
    "The rate of one run, to estimate the time before any has finished.",
)
TOGETHER = flags.DEFINE_integer(
    "together",
    1,
    "The largest number of runs of one shape that a process trains as one program; fewer if their "
    "states exceed half of its memory. Activations and GPU memory are not taken into account.",
    lower_bound=1,
)
RUN = flags.DEFINE_multi_string(
    "run",
    None,
    "Train only this run of --sweepdir in this process: a name, or a position from 0. Repeat the "
    "flag to train several runs as one program.",
)
STOP_WITH_STDIN = flags.DEFINE_bool(
    "stop_with_stdin", False, "With --run: save and stop when the standard input ends."
)


def main() -> dict[str, Any]:
    """Prints the plan and, if it is to be run, a line after each run; returns a summary."""
    if RUN.value:
        return train_runs(_directory(), RUN.value, STOP_WITH_STDIN.value, program.log)
    # The devices are for the runs: on a GPU this process would take most of the memory.
    jax.config.update("jax_platforms", "cpu")
    if TABLE.value:
        return _summary(_directory())
    rate = FLOPS_PER_SECOND.value
    if rate is not None and not rate > 0:
        raise UserError(f"--flops_per_second={rate}; expected a number above 0")
    trials = trials_of(_read_sweep())
    if PLAN.value:
        plan = make_plan(trials, expected_sizes)
        _print_plan(plan, Path(SWEEPDIR.value) if SWEEPDIR.value else None)
        return {
            "runs": len(plan),
            "shapes": num_shapes(plan),
            "training_flops": total_flops(plan),
            "training_flops_with_forks": total_flops(without_shared_steps(plan)),
        }
    directory = _directory()
    sweep_directory.refuse_another_sweep(directory, trials)
    shares = local_executor.shares(PROCESSES.value)
    # The data is prepared here, so that no two runs prepare it at the same time.
    plan = make_plan(trials, lambda experiment: data.prepare(experiment.data).sizes)
    refuse_what_cannot_fit(plan, local_executor.bytes_per_process(PROCESSES.value))
    directory.mkdir(parents=True, exist_ok=True)
    with sweep_directory.lock(directory / "lock"):
        sweep_directory.write_plan(directory, plan)
        _print_plan(plan, directory)
        stopped = _execute(directory, plan, shares)
        outcome = _summary(directory)
    if not shares:
        return outcome
    if stopped or outcome["finished"] + len(outcome["errors"]) < outcome["runs"]:
        program.log("stopped; the same command goes on")
        return outcome | {"stopped": True}
    return outcome | ({"failed": True} if outcome["errors"] else {})


def _directory() -> Path:
    if not SWEEPDIR.value:
        raise UserError("--sweepdir is missing; give the directory in which to keep the sweep")
    return Path(SWEEPDIR.value)


def _read_sweep() -> Sweep:
    if not CONFIG.value:
        raise UserError("--config is missing; give a file with get_sweep(), as in configs/sweeps")
    return call_config_file(CONFIG.value, "get_sweep", "configs/sweeps/*.py")


def _execute(directory: Path, plan: list[PlannedRun], shares: list[local_executor.Share]) -> bool:
    """Trains the unfinished runs and prints a line after each; returns whether it was stopped."""
    command = [sys.executable, "-m", "launch.sweep", f"--sweepdir={directory}", "--stop_with_stdin"]
    rate = FLOPS_PER_SECOND.value
    return execute(
        directory,
        plan,
        shares,
        TOGETHER.value,
        command,
        lambda rows, name: program.log(describe_progress(plan, rows, name, len(shares), rate)),
    )


def _print_plan(plan: list[PlannedRun], directory: Path | None) -> None:
    begun = directory is not None and (directory / "sweep.json").exists()
    rows = results(directory) if directory and begun else []
    seconds = estimate_seconds(rows, FLOPS_PER_SECOND.value)
    for line in describe_plan(plan, directory, seconds):
        program.log(line)


def _summary(directory: Path) -> dict[str, Any]:
    """Writes the results of all runs, prints the failed ones, and returns the counts."""
    rows = results(directory)
    path = write_results(directory, rows)
    errors = {row["name"]: row["error"] for row in rows if row["status"] == "failed"}
    for name, error in errors.items():
        program.log(f"failed: {name}: {error}")
    program.log(f"results: {path}")
    return {
        "sweepdir": str(directory),
        "runs": len(rows),
        "finished": sum(row["status"] == "finished" for row in rows),
        "errors": errors,
        "results": str(path),
    }


if __name__ == "__main__":
    program.run(main)
