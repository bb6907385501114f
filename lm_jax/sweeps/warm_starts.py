"""Runs of several lengths on one trunk: a longer one goes on where a shorter one's decay begins.

Where the learning rate stays until its last fall (`wsd`), or knows nothing of the end (`constant`,
`rsqrt`), runs that differ in length only take the same steps until the shorter one's rate falls:
batches and random numbers depend on nothing but the step. Each therefore keeps its state of that
step, and a longer one begins with a copy, as if it had been stopped there. So the budgets of one
model cost one long run and a fall each (Hagele et al. 2024).
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import flat_without
from lm_jax.runs.workdir import read_environment
from lm_jax.sweeps.directory import lock, log_of, workdir_of
from lm_jax.sweeps.plan import Planned
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.training.checkpoints import finished_steps
from lm_jax.training.loop import last_dispatch_end
from lm_jax.training.schedules import steps_before_decay

# Besides `training.num_steps`, what runs on one trunk may differ in: it tells only how rates fall.
_OF_THE_FALL = ("schedule.decay_fraction", "schedule.final_fraction")
# What a run leaves besides metrics and checkpoints, as one that goes on in its directory finds it.
_INPUTS = ("data.json", "tokenizer", "tensorboard")

Row = Mapping[str, Any]  # of metrics


def branch_step(experiment: Experiment) -> int:
    """The last step that longer runs on the same trunk share, and can go on from; 0: there is none.

    There a dispatch ends and a row of metrics, so that the run that goes on computes and logs what
    it would alone.
    """
    return _boundary(_before_decay(experiment), experiment)


def predecessors(plan: Sequence[Planned]) -> dict[str, Planned]:
    """The run on the same trunk of which a run can take over most steps, by the name of the latter.

    It is one of fewer steps, or of as many and a longer fall, so that nothing waits for itself.
    """
    trunks: dict[str, list[Planned]] = {}
    for run in plan:
        if run.cost.flops_per_step:  # else it counts, and takes no steps
            trunks.setdefault(_trunk(run.experiment), []).append(run)
    found: dict[str, Planned] = {}
    for runs in trunks.values():
        in_order = sorted(runs, key=lambda run: (_num_steps(run), branch_step(run.experiment)))
        for i, run in enumerate(in_order):
            least, most = 0, _before_decay(run.experiment)
            for other in in_order[:i]:
                if least < (step := branch_step(other.experiment)) <= most:
                    least, found[run.name] = step, other
    return found


def as_trained(plan: Sequence[Planned]) -> list[Planned]:
    """The plan with the costs of what each run computes itself, if all begin where they can."""
    before = {name: branch_step(run.experiment) for name, run in predecessors(plan).items()}
    return [
        run._replace(cost=run.cost._replace(steps=run.cost.steps - before.get(run.name, 0)))
        for run in plan
    ]


def waits(plan: Sequence[Planned], groups: Mapping[str, Sequence[Planned]]) -> dict[str, set[str]]:
    """The groups of runs trained together that each has to wait for, by their keys.

    Of groups of more than one run, those of as many steps do not wait for each other.
    """
    group_of = {run.name: key for key, runs in groups.items() for run in runs}
    by_name = {run.name: run for run in plan}
    found: dict[str, set[str]] = {}
    for name, before in predecessors(plan).items():
        if name not in group_of or before.name not in group_of:
            continue
        mine, other = group_of[name], group_of[before.name]
        alone = len(groups[mine]) == len(groups[other]) == 1
        if alone or _num_steps(before) < _num_steps(by_name[name]):
            found.setdefault(mine, set()).add(other)
    return found


def begin(directory: Path, plan: Sequence[Planned], run: Planned) -> tuple[str, int] | None:
    """Gives a run that has no work directory yet the beginning of another one on its trunk.

    The new directory is what the run itself would have left, stopped at that step; `branch.json`
    says whose it is. It is there whole or not at all. Runs that another process trains are left,
    and so are those that were measured at other steps, before the plan was changed.

    Returns:
      The name of the other run and the step; None where the run begins by itself.

    Raises:
      OSError: the copy cannot be written.
    """
    place = workdir_of(directory, run)
    if place.exists() or not run.cost.flops_per_step:
        return None
    trunk = _trunk(run.experiment)
    others = [other for other in plan if other.name != run.name and other.cost.flops_per_step]
    others = [other for other in others if _trunk(other.experiment) == trunk]
    shared = {other.name: _newest_shared(directory, other, run) for other in others}
    for other in sorted(others, key=lambda other: -shared[other.name]):
        if not shared[other.name]:
            break
        with contextlib.ExitStack() as stack:
            try:  # so that no checkpoint is deleted meanwhile
                path = log_of(directory, other)
                stack.enter_context(lock(path))
            except ValueError:
                continue
            step = _newest_shared(directory, other, run)
            source = workdir_of(directory, other)
            rows = _rows_of_both(source, step, other.experiment)
            if step and _places(rows) == _places_until(step, run.experiment):
                _copy(source, place, step, other.name, rows)
                return other.name, step
    return None


def origin(place: Path) -> dict[str, Any]:
    """The `run` whose beginning a run took over, the `step` up to which, and its `environments`.

    Those are where and by what the steps before were computed. `run` and `step` are None where the
    beginning is the run's own.
    """
    try:
        return json.loads((place / "branch.json").read_text())
    except (OSError, ValueError):
        return {"run": None, "step": None, "environments": []}


def _num_steps(run: Planned) -> int:
    return run.experiment.training.num_steps


def _before_decay(experiment: Experiment) -> int:
    return steps_before_decay(experiment.schedule, experiment.training.num_steps)


def _boundary(step: int, experiment: Experiment) -> int:
    """The last step up to this one at which a dispatch ends and metrics are logged; 0: none."""
    step = last_dispatch_end(step, experiment)
    while step % experiment.training.log_every_steps:
        step = last_dispatch_end(step - 1, experiment)
    return step


def _trunk(experiment: Experiment) -> str:
    """The same text for experiments whose steps are the same until a rate falls."""
    alike = flat_without(experiment, ["training.num_steps", *_OF_THE_FALL])
    return json.dumps(alike, sort_keys=True)


def _newest_shared(directory: Path, other: Planned, run: Planned) -> int:
    """The step of the newest checkpoint of another run that this one would come to, too; or 0."""
    most = min(_before_decay(other.experiment), _before_decay(run.experiment))
    steps = finished_steps(workdir_of(directory, other) / "checkpoints")
    shared = (s for s in steps if s <= most and _boundary(s, run.experiment) == s)
    return max(shared, default=0)


def _copy(source: Path, place: Path, step: int, name: str, rows: Sequence[Row]) -> None:
    partial = place.with_name(f"{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "checkpoints").mkdir(parents=True)
    for saved in finished_steps(source / "checkpoints"):
        if saved <= step:  # the best until then is among them
            shutil.copytree(source / f"checkpoints/{saved}", partial / f"checkpoints/{saved}")
    for item in _INPUTS:
        if (path := source / item).is_dir():
            shutil.copytree(path, partial / item)
        elif path.exists():
            shutil.copy2(path, partial / item)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (partial / "metrics.jsonl").write_text(text, encoding="utf-8")
    before = [*origin(source)["environments"], read_environment(source)]
    record = {"run": name, "step": step, "environments": before}
    (partial / "branch.json").write_text(json.dumps(record) + "\n")
    os.rename(partial, place)


def _rows_of_both(source: Path, last_step: int, other: Experiment) -> list[Row]:
    """The metrics up to a step, but for those that a run has because it ends there."""
    every = _every(other)
    rows = [row for row in read_metrics(source) if row["step"] <= last_step]
    return [
        row
        for row in rows
        if row["step"] < other.training.num_steps
        or (every[row["kind"]] and row["step"] % every[row["kind"]] == 0)
    ]


def _places(rows: Sequence[Row]) -> set[tuple[str, int]]:
    return {(row["kind"], row["step"]) for row in rows}


def _places_until(step: int, experiment: Experiment) -> set[tuple[str, int]]:
    """The kinds and steps of the rows that a run leaves up to a step."""
    return {
        (kind, place)
        for kind, every in _every(experiment).items()
        if every
        for place in range(every, step + 1, every)
    }


def _every(experiment: Experiment) -> dict[str, int]:
    """Steps between two rows of a kind; 0: there are none but the last."""
    evaluation = experiment.evaluation.every_steps
    return {"train": experiment.training.log_every_steps, "evaluation": evaluation}
