"""Shows what runs do: one run, a sweep, or a folder of both.

  python -m launch.status runs/quickstart
  python -m launch.status 'runs/*' sweeps/rates --watch
  python -m launch.status sweeps/rates --json

It reads the files of the work directories and needs no accelerator. A run is `running`; `failed`
with an error; `dead`, which is killed or on a machine that is gone; `stopped`, which the same
command resumes; `waiting` for its turn in a sweep; or `finished`. `train` and `valid` are the last
losses in nats, `rate/s` the targets trained on per second (none before 3 s of steps, which would be
noise), `left` the time left at the pace of the last rows, `again` the restarts, `skips` the skipped
updates, `goodput` the share of the time since the last start that went to steps (estimated until
the run has ended), and `row` the age of metrics.jsonl. Columns without a value are left out.

--watch, or --watch=SECONDS, draws the table again until no run is running or waiting. The exit
status is 1 if a run failed or died. The last line of the output is JSON; with --json it is all of
it, and has every field.
"""

import collections
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import program
from lm_jax.errors import UserError
from lm_jax.reports.status_table import status_lines
from lm_jax.runs.status import read_status
from lm_jax.sweeps.find_runs import find_runs
from lm_jax.telemetry.run_status import STATES, RunStatus

_WATCH_SECONDS = 5.0


class _Seconds(flags.ArgumentParser):
    """Parses `--watch` as a boolean flag that may have a number of seconds."""

    def parse(self, argument: Any) -> float:
        """Returns the seconds; 0.0: do not watch."""
        if argument in ("true", True):
            return _WATCH_SECONDS
        if argument in ("false", False):
            return 0.0
        try:
            seconds = float(argument)
        except ValueError:
            seconds = 0.0
        if not 0.1 <= seconds <= 86_400:
            raise ValueError(f"expected seconds from 0.1 to 86400, as in --watch={_WATCH_SECONDS}")
        return seconds


def _define_watch() -> flags.FlagHolder[float]:
    text = f"Draw the table again every {_WATCH_SECONDS:g} or --watch=SECONDS until all have ended."
    flag = flags.Flag(_Seconds(), None, "watch", 0.0, text)
    flag.boolean = True  # may be given without a value
    return flags.DEFINE_flag(flag)


JSON = flags.DEFINE_bool("json", False, "Print no table, but every field of each run as JSON.")
WATCH = _define_watch()


def main() -> dict[str, Any]:
    """Prints the table, once or until all runs have ended; returns the number in each state."""
    patterns = program.arguments()
    if not patterns:
        raise UserError("give work directories of runs, or directories of sweeps")
    statuses, notes = _watch(patterns) if WATCH.value else _read(patterns)
    if not WATCH.value and not JSON.value:
        program.log("\n".join([*status_lines(statuses), *notes]))
    counts = collections.Counter(status.state for status in statuses)
    results: dict[str, Any] = {"states": {state: counts[state] for state in STATES}}
    if JSON.value:
        results |= {"runs": [status._asdict() for status in statuses], "notes": notes}
    return results | {"failed": bool(counts["failed"] or counts["dead"])}


def _read(patterns: Sequence[str]) -> tuple[list[RunStatus], list[str]]:
    """Returns what each run does, sorted by state and name, and lines on what holds no run."""
    runs, notes = find_runs(patterns)
    found = [read_status(run.name, run.workdir, run.log_error) for run in runs]
    return sorted(found, key=lambda status: (STATES.index(status.state), status.name)), notes


def _watch(patterns: Sequence[str]) -> tuple[list[RunStatus], list[str]]:
    """Draws the table until no run is running or waiting, or Ctrl-C; returns what was read last."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=JSON.value)
    statuses, notes = _read(patterns)
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            lines = [*status_lines(statuses), *notes]
            if console.is_terminal:
                live.update(Text("\n".join(lines), no_wrap=True), refresh=True)
            else:  # a log file has each table
                print("\n".join([*lines, ""]), file=console.file, flush=True)
            if not any(status.state in ("running", "waiting") for status in statuses):
                break
            time.sleep(WATCH.value)
            statuses, notes = _read(patterns)
    return statuses, notes


if __name__ == "__main__":
    program.run(main, takes_arguments=True, uses_jax=False)
