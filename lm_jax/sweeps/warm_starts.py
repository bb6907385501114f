"""Warm starts: a longer run forks from a shorter one with which it shares a prefix.

Under a schedule whose rate stays until a last decay (`wsd`), or does not depend on the end
(`constant`, `rsqrt`), runs that differ only in length take the same steps until the shorter one
decays: batches and random numbers depend on nothing but the seed and the step. Each run therefore
keeps its state of that step, and a longer run starts from a copy, as if it had been stopped there.
Several budgets of one model then cost one long run and a decay each (Hagele et al. 2024).

On disk a fork is called a branch, as in sweeps of earlier versions: `branch.json` in its work
directory (lm_jax/runs/origin.py), `branch_of` and `branch_step` in `results.csv`.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import flat_without
from lm_jax.errors import UserError
from lm_jax.runs.continuation import fork_boundary
from lm_jax.runs.origin import (
    INPUTS,
    Metrics,
    Origin,
    copy_until,
    logging_intervals,
    metrics_until,
)
from lm_jax.sweeps.directory import lock, log_of, workdir_of
from lm_jax.sweeps.plan import PlannedRun
from lm_jax.training.checkpoints import finished_steps
from lm_jax.training.schedules import steps_before_decay

# Fields in which runs with a shared prefix may differ besides `training.num_steps`: they only
# describe the decay.
_DECAY_FIELDS = ("schedule.decay_fraction", "schedule.final_fraction")


def fork_step(experiment: Experiment) -> int:
    """Returns the last step from which a longer run with the same prefix can fork; 0 if none.

    A dispatch and a row of metrics end there, so that the fork computes and logs the same as the
    longer run on its own.
    """
    return fork_boundary(_steps_before_decay(experiment), experiment)


def predecessors(plan: Sequence[PlannedRun]) -> dict[str, PlannedRun]:
    """Returns by run name the run from which it can take over most steps; others are left out.

    A predecessor has fewer steps, or equally many and an earlier decay, so there are no cycles.
    """
    by_prefix: dict[str, list[PlannedRun]] = {}
    for run in plan:
        if run.cost.flops_per_step:  # a count-based model takes no steps
            by_prefix.setdefault(_prefix_key(run.experiment), []).append(run)
    found: dict[str, PlannedRun] = {}
    for runs in by_prefix.values():
        in_order = sorted(runs, key=lambda run: (_num_steps(run), fork_step(run.experiment)))
        for i, run in enumerate(in_order):
            best, limit = 0, _steps_before_decay(run.experiment)
            for other in in_order[:i]:
                if best < (step := fork_step(other.experiment)) <= limit:
                    best, found[run.name] = step, other
    return found


def without_shared_steps(plan: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Returns the plan with the cost of the steps that each run takes if all forks happen."""
    shared = {name: fork_step(run.experiment) for name, run in predecessors(plan).items()}
    return [
        run._replace(cost=run.cost._replace(steps=run.cost.steps - shared.get(run.name, 0)))
        for run in plan
    ]


def dependencies(
    plan: Sequence[PlannedRun], groups: Mapping[str, Sequence[PlannedRun]]
) -> dict[str, set[str]]:
    """Returns by group the keys of the groups that must end before it starts.

    Args:
      groups: runs that are trained together. Multi-run groups of equal length never wait for each
        other.
    """
    group_of = {run.name: key for key, runs in groups.items() for run in runs}
    by_name = {run.name: run for run in plan}
    found: dict[str, set[str]] = {}
    for name, before in predecessors(plan).items():
        if name not in group_of or before.name not in group_of:
            continue
        own, other = group_of[name], group_of[before.name]
        single_runs = len(groups[own]) == len(groups[other]) == 1
        if single_runs or _num_steps(before) < _num_steps(by_name[name]):
            found.setdefault(own, set()).add(other)
    return found


def fork(directory: Path, plan: Sequence[PlannedRun], run: PlannedRun) -> tuple[str, int] | None:
    """Starts a run that has no work directory from the longest prefix on disk that it shares.

    The new directory equals what the run itself would have left, stopped at that step;
    `branch.json` records its origin. The directory appears whole or not at all. Runs that another
    process trains are skipped, as are runs that logged at other steps, before the plan changed.

    Returns:
      The name of the other run and the step; None if the run has to start on its own.

    Raises:
      OSError: the copy cannot be written.
    """
    path = workdir_of(directory, run)
    if path.exists() or not run.cost.flops_per_step:
        return None
    key = _prefix_key(run.experiment)
    others = [other for other in plan if other.name != run.name and other.cost.flops_per_step]
    others = [other for other in others if _prefix_key(other.experiment) == key]
    shared = {other.name: _newest_shared(directory, other, run) for other in others}
    for other in sorted(others, key=lambda other: -shared[other.name]):
        if not shared[other.name]:
            break
        with contextlib.ExitStack() as stack:
            try:  # the lock keeps the other run from deleting checkpoints meanwhile
                stack.enter_context(lock(log_of(directory, other)))
            except UserError:
                continue
            step = _newest_shared(directory, other, run)
            source = workdir_of(directory, other)
            rows = metrics_until(source, step, other.experiment)
            if step and _logged(rows) == _expected_log(step, run.experiment):
                copy_until(source, path, Origin(other.name, step), rows, INPUTS)
                return other.name, step
    return None


def _num_steps(run: PlannedRun) -> int:
    return run.experiment.training.num_steps


def _steps_before_decay(experiment: Experiment) -> int:
    return steps_before_decay(experiment.schedule, experiment.training.num_steps)


def _prefix_key(experiment: Experiment) -> str:
    """Returns a text that is equal for experiments with the same steps until a rate decays."""
    fields = flat_without(experiment, ["training.num_steps", *_DECAY_FIELDS])
    return json.dumps(fields, sort_keys=True)


def _newest_shared(directory: Path, other: PlannedRun, run: PlannedRun) -> int:
    """Returns the step of another run's newest checkpoint from which this run can fork, or 0."""
    limit = min(_steps_before_decay(other.experiment), _steps_before_decay(run.experiment))
    steps = finished_steps(workdir_of(directory, other) / "checkpoints")
    shared = (s for s in steps if s <= limit and fork_boundary(s, run.experiment) == s)
    return max(shared, default=0)


def _logged(rows: Sequence[Metrics]) -> set[tuple[str, int]]:
    """Returns the kind and step of each row, but of the measurement before the first step."""
    return {(row["kind"], row["step"]) for row in rows if row["step"]}


def _expected_log(last_step: int, experiment: Experiment) -> set[tuple[str, int]]:
    """Returns the kinds and steps of the rows that a run logs up to a step."""
    return {
        (kind, step)
        for kind, every in logging_intervals(experiment).items()
        if every
        for step in range(every, last_step + 1, every)
    }
