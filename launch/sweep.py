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

import math
import sys
from pathlib import Path
from typing import Any

from absl import flags

from launch import program
from lm_jax.errors import UserError

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
    """Trains the sweep, or only plans or tabulates it, and returns a summary."""
    import jax

    from lm_jax.config.config_file import call_config_file
    from lm_jax.sweeps.execute import train_runs
    from lm_jax.sweeps.run_sweep import Execution, run_sweep, show_plan, summarize
    from lm_jax.sweeps.search_space import trials_of

    if RUN.value:
        return train_runs(_directory(), RUN.value, STOP_WITH_STDIN.value, program.log)
    # The devices are for the runs: on a GPU this process would take most of the memory.
    jax.config.update("jax_platforms", "cpu")
    if TABLE.value:
        return summarize(_directory(), program.log)
    rate = FLOPS_PER_SECOND.value
    if rate is not None and not 0 < rate < math.inf:
        raise UserError(f"--flops_per_second={rate}; expected a finite number above 0")
    if not CONFIG.value:
        raise UserError("--config is missing; give a file with get_sweep(), as in configs/sweeps")
    trials = trials_of(call_config_file(CONFIG.value, "get_sweep", "configs/sweeps/*.py"))
    if PLAN.value:
        directory = Path(SWEEPDIR.value) if SWEEPDIR.value else None
        return show_plan(trials, directory, rate, program.log)
    command = [
        sys.executable, "-m", "launch.sweep", f"--sweepdir={_directory()}", "--stop_with_stdin"
    ]  # fmt: skip
    execution = Execution(PROCESSES.value, TOGETHER.value, command, rate)
    return run_sweep(trials, _directory(), execution, program.log)


def _directory() -> Path:
    if not SWEEPDIR.value:
        raise UserError("--sweepdir is missing; give the directory in which to keep the sweep")
    return Path(SWEEPDIR.value)


if __name__ == "__main__":
    program.run(main, resumes=True)
