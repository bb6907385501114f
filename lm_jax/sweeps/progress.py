"""Lines of text about a sweep: its plan, the time left, and what each run came to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.plurals import counted
from lm_jax.sweeps.directory import status
from lm_jax.sweeps.plan import (
    PlannedRun,
    Seconds,
    as_measured,
    at_rate,
    duration,
    num_shapes,
    table_of,
    total_flops,
)
from lm_jax.sweeps.warm_starts import predecessors, without_shared_steps


def estimate_seconds(
    rows: Sequence[Mapping[str, Any]], flops_per_second: float | None
) -> Seconds | None:
    """Returns an estimate of a run's seconds, from finished runs if there are any.

    Args:
      rows: of `results.results`.
      flops_per_second: the rate of one run that is assumed before any has finished; None: unknown.
    """
    done = [row for row in rows if row["status"] == "finished" and row["training_flops"]]
    own_shares = [1 - (row["branch_step"] or 0) / row["steps"] for row in done]
    flops = [row["training_flops"] * share for row, share in zip(done, own_shares, strict=True)]
    measured = as_measured(flops, [row["seconds"] for row in done])
    return measured or (at_rate(flops_per_second) if flops_per_second else None)


def describe_plan(
    plan: Sequence[PlannedRun], directory: Path | None, seconds: Seconds | None
) -> list[str]:
    """Returns the table of a plan, and the totals of the runs that are not finished.

    Args:
      directory: the directory of the sweep, which knows each run's status; None: nothing is on
        disk yet.
      seconds: the estimate of a run's seconds; None: unknown.
    """
    own = without_shared_steps(plan)
    statuses = [status(directory, run) if directory else "waiting" for run in own]
    lines = table_of(own, seconds, statuses)
    if forks := len(predecessors(plan)):
        lines.append(
            f"{counted(forks, 'run forks', 'runs fork')} from a shorter run where its decay "
            f"begins; without forks the sweep would take {total_flops(plan):.3g} FLOPs"
        )
    left = [run for run, state in zip(own, statuses, strict=True) if state != "finished"]
    time_left = "time unknown until a run has finished (--flops_per_second gives an estimate)"
    if seconds:
        time_left = f"about {duration(sum(seconds(run.cost) for run in left))} of one process"
    largest = max(run.cost.state_bytes for run in own)
    lines.append(
        f"distinct shapes: {num_shapes(own)}, the largest state {largest / 1e6:,.1f} MB; "
        f"{counted(len(left), 'run')} to go, {total_flops(left):.3g} FLOPs: {time_left}"
    )
    return lines


def describe_progress(
    plan: Sequence[PlannedRun],
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    processes: int,
    flops_per_second: float | None,
) -> list[str]:
    """Returns a line that says how far the sweep is, and how runs ended.

    Several runs of one process have a line each.

    Args:
      rows: of `results.results`.
      names: the runs of a process that ended.
      processes: how many runs are trained at a time.
    """
    statuses, own = {row["name"]: row["status"] for row in rows}, without_shared_steps(plan)
    done = [run for run in own if statuses[run.name] == "finished"]
    left = [run for run in own if statuses[run.name] not in ("finished", "failed")]
    share = total_flops(done) / max(total_flops(own), 1)
    seconds = estimate_seconds(rows, flops_per_second)
    time_left = ""
    if seconds and left:
        remaining = sum(seconds(run.cost) for run in left) / processes
        time_left = f", about {duration(remaining)} left"
    begin = f"{len(done)} of {len(plan)} finished, {share:.0%} of the FLOPs{time_left}"
    ended = [f"{row['name']}, {_outcome(row)}" for row in rows if row["name"] in names]
    return [f"{begin}: {ended[0]}"] if len(ended) == 1 else [begin, *(f"  {run}" for run in ended)]


def describe_best(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line on the run of lowest validation loss, where several have finished."""
    done = [row for row in rows if row["status"] == "finished" and row["validation_loss"]]
    if len(done) < 2:
        return []
    best = min(done, key=lambda row: row["validation_loss"])
    return [f"lowest validation loss: {best['validation_loss']:.4f}, {best['name']}"]


def _outcome(row: Mapping[str, Any]) -> str:
    if row["validation_loss"] is not None:
        return f"validation loss {row['validation_loss']:.4f}"
    return f"failed: {row['error']}" if row["error"] else row["status"]
