"""How a run may go on: grown in its own work directory, or forked from a checkpoint into another.

A run may grow where its schedule has given the rates of the longer run so far. A fork may change
the schedule, the batch and the data, and continues parameters, optimizer state, data position and
step.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_jax.config.experiment import Experiment, sequences_per_step
from lm_jax.config.serialization import FREE_ON_RESUME, changes, differences
from lm_jax.data.dataset import Dataset
from lm_jax.errors import UserError
from lm_jax.models import family_of
from lm_jax.parallel import processes
from lm_jax.plurals import counted
from lm_jax.runs.origin import INPUTS, Origin, copy_until, metrics_until, origin, rows_trained
from lm_jax.runs.workdir import read_experiment
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.run_files import read_data_facts
from lm_jax.training.checkpoints import finished_steps
from lm_jax.training.loop import last_dispatch_end
from lm_jax.training.schedules import steps_before_decay

_LENGTH = "training.num_steps"
# What a fork may change; a part of which only some fields may not is followed by these.
_FREE_IN_FORK = (*FREE_ON_RESUME, "schedule", "training", "optimizer.weight_decay", "data")
_FIXED_IN_FORK = ("data.kind", "data.tokenizer")


def refuse_another_experiment(experiment: Experiment, workdir: Path) -> None:
    """Raises UserError if the directory was begun with a configuration that this cannot continue.

    More steps continue it where the schedule allows that.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir} is a file; --workdir is a directory")
    if not (workdir / "config.json").exists():
        return
    before = read_experiment(workdir)
    _refuse_imported(workdir)
    changed = differences(before, experiment)
    longer, steps = experiment.training.num_steps, before.training.num_steps
    if longer > steps and len(changed) == 1:  # nothing but the length
        _refuse_changed_rates(before, longer, workdir)
    elif changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        forks = longer > steps and all(map(_is_free, changed))
        fork = f", fork it: --from_workdir={workdir} --workdir=NEW" if forks else ""
        raise UserError(
            f"{workdir} holds another experiment ({changed[0]}{more}); "
            f"give the same configuration to resume{fork}, or choose another --workdir"
        )


def _refuse_imported(workdir: Path) -> None:
    """Raises UserError if a run holds imported weights, which have no training to continue."""
    has_data = (workdir / "data.json").exists()
    if has_data and read_data_facts(workdir).get("imported_from"):
        raise UserError(
            f"{workdir} was imported: it holds neither texts nor the state of an optimizer to go "
            f"on with; fine-tune it: --from_workdir={workdir} --fine_tune --workdir=NEW "
            "--config.data.source=files --config.data.path=FILES"
        )


def refuse_missing_texts(experiment: Experiment, source: Path) -> None:
    """Raises UserError if a run would be fine-tuned on its own texts, but was imported without."""
    if not read_data_facts(source).get("imported_from"):
        return
    theirs = _with_tokenizer(read_experiment(source), "")
    if _with_tokenizer(experiment, "").data == theirs.data:
        raise UserError(
            f"{source} was imported and comes with no texts: name those to fine-tune on, "
            "--config.data.source=files --config.data.path=FILES"
        )


def _refuse_changed_rates(before: Experiment, longer: int, workdir: Path) -> None:
    """Raises UserError if a longer run would have had other learning rates until now."""
    steps, name = before.training.num_steps, before.schedule.name
    saved = finished_steps(workdir / "checkpoints")
    shared = steps_before_decay(before.schedule, steps)
    if max(saved, default=0) <= shared:
        return
    command = f"--from_workdir={workdir} --workdir=NEW --config.{_LENGTH}={longer}"
    if not shared:
        raise UserError(
            f"{workdir} was trained with the {name} schedule of {counted(steps, 'step')}, whose "
            f"learning rates all change with {_LENGTH}; fork it: python -m launch.train {command}"
        )
    earlier = max((step for step in saved if step <= shared), default=0)
    if earlier:
        raise UserError(
            f"the learning rate of {workdir} has decayed since step {shared} ({name} schedule of "
            f"{counted(steps, 'step')}); fork it from before: python -m launch.train {command} "
            f"--from_step={earlier}"
        )
    raise UserError(
        f"the learning rate of {workdir} has decayed since step {shared} ({name} schedule of "
        f"{counted(steps, 'step')}), and no checkpoint from before is left (there are "
        f"{_listed(saved)}); train it anew, or fork it after its decay: python -m launch.train "
        f"{command}"
    )


def growth(experiment: Experiment, workdir: Path) -> str:
    """Returns what the log should say of a fork, or of a run beyond its end; "": it is neither."""
    if not (workdir / "config.json").exists():
        found = origin(workdir)
        skipped = [f"{found.skipped_rows} rows skipped"] if found.skipped_rows else []
        changed = ", ".join([*skipped, *(found.changes or ())])
        return f"fork of {found.run} at step {found.step} ({changed})" if changed else ""
    steps, longer = read_experiment(workdir).training.num_steps, experiment.training.num_steps
    if longer == steps:
        return ""
    newest = max(finished_steps(workdir / "checkpoints"), default=0)
    text = f"{_LENGTH} grows from {steps} to {longer}"
    if newest and last_dispatch_end(newest, experiment) != newest:
        text += (
            f"; step {newest} ends no dispatch of the longer run, whose numbers may therefore be "
            "rounded otherwise than without a stop"
        )
    return text


def fork_boundary(step: int, experiment: Experiment) -> int:
    """Returns the last step up to this one that ends a dispatch and is logged; 0 if none.

    From there a fork computes and logs the same as the longer run on its own.
    """
    step = last_dispatch_end(step, experiment)
    while step % experiment.training.log_every_steps:
        step = last_dispatch_end(step - 1, experiment)
    return step


def last_step_before_decay(experiment: Experiment) -> int:
    """Returns the last step from which a longer run can fork before a final decay; 0 without one.

    Schedules that decay from the start have none, nor have those that never decay. A run that is
    too short for a `fork_boundary` has a step that is not logged, or one at which longer runs end
    no dispatch, so that their numbers may be rounded otherwise.
    """
    steps = experiment.training.num_steps
    shared = steps_before_decay(experiment.schedule, steps)
    if shared >= steps:
        return 0
    return fork_boundary(shared, experiment) or last_dispatch_end(shared, experiment) or shared


class Fork:
    """A fork that a work directory begins with, or began with earlier."""

    def __init__(
        self, source: Path, step: int | None, workdir: Path, skip_batches: int | None = None
    ):
        """Finds the run and the step.

        Args:
          step: of a checkpoint of `source`; None: the newest, or the one that `workdir` began with.
          skip_batches: batches of `source` that are left out; None: none, or as `workdir` began.

        Raises:
          UserError: `source` is no run or has no such checkpoint, or `workdir` is no fork of it.
        """
        self._source, self._workdir, self._skipped = source, workdir, skip_batches
        self._is_copied = (workdir / "branch.json").exists()
        if self._is_copied:
            self._step = self._step_of_copy(step)
            return
        if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
            raise UserError(
                f"{workdir} is not empty, and it is no fork of {source}; choose another --workdir"
            )
        read_experiment(source)  # it is a run
        _refuse_imported(source)
        saved = finished_steps(source / "checkpoints")
        if not saved:
            raise UserError(f"{source} holds no checkpoint to continue from; train it first")
        if step is not None and step not in saved:
            raise UserError(
                f"{source} has no checkpoint of step {step}; its checkpoints are {_listed(saved)}"
            )
        self._step = saved[-1] if step is None else step

    def _step_of_copy(self, step: int | None) -> int:
        found = origin(self._workdir)
        is_other = Path(found.run or "").resolve() != self._source.resolve()
        if found.step is None or is_other or step not in (None, found.step):
            raise UserError(
                f"{self._workdir} was forked from {found.run} at step {found.step}, not from "
                f"{self._source}{'' if step is None else f' at step {step}'}; choose another "
                "--workdir, or give the same command to resume"
            )
        is_known = self._skipped is None or not (self._source / "config.json").exists()
        if not is_known and self._skipped_rows() != found.skipped_rows:
            raise UserError(
                f"{self._workdir} began with another number of skipped batches than "
                f"{self._skipped}; choose another --workdir, or give the same command to resume"
            )
        return found.step

    def _skipped_rows(self) -> int:
        """Returns the rows of batches that are left out, at forks before this one, too."""
        before = read_experiment(self._source)
        own = (self._skipped or 0) * sequences_per_step(before)
        return own + (origin(self._source).skipped_rows or 0)

    def experiment(self, experiment: Experiment) -> Experiment:
        """Returns the experiment to train, with the tokenizer of the origin.

        Raises:
          UserError: it cannot continue the origin.
        """
        if (self._workdir / "config.json").exists():  # which the experiment is held to
            own = read_experiment(self._workdir).data
            return _with_tokenizer(experiment, own.tokenizer.path) if own.has_text else experiment
        before = read_experiment(self._source)
        changed = changes(before, experiment)
        fixed = [each for each in changed if not _is_free(each)]
        if fixed:
            more = f" and {len(fixed) - 1} more" if len(fixed) > 1 else ""
            raise UserError(
                f"a fork of {self._source} keeps its architecture, optimizer, tokenizer and seed "
                f"({fixed[0]}{more}); give it as it was, or begin a new run with its parameters: "
                "--fine_tune"
            )
        if experiment.training.num_steps <= self._step:
            raise UserError(
                f"{_LENGTH} is {experiment.training.num_steps}, and {self._source} is forked at "
                f"step {self._step}; give the steps of the whole run, such as "
                f"--config.{_LENGTH}={2 * self._step}"
            )
        carries_state = family_of(before.model).carries_state(before.model)
        rows = [sequences_per_step(each) for each in (before, experiment)]
        if carries_state and rows[0] != rows[1]:
            raise UserError(
                f"{self._source} carries a state for each of the {rows[0]} rows of a batch, so "
                f"a fork cannot have {rows[1]}; leave the batch size as it was"
            )
        data = experiment.data
        if data.has_text and (data.tokenizer.path or _changes_data(changed)):
            return _with_tokenizer(experiment, str(self._source))
        return experiment

    @contextlib.contextmanager
    def begun(self, experiment: Experiment) -> Iterator[None]:
        """Makes the copy that the work directory begins with, unless it is there.

        The copy is removed if the block fails before the first row of the fork's own metrics.

        Raises:
          OSError: the copy cannot be written.
        """
        if self._is_copied:
            yield
            return
        processes.together(lambda: self._copy(experiment) if processes.is_first() else None)
        try:
            yield
        except BaseException:
            own = any(row["step"] > self._step for row in read_metrics(self._workdir))
            if processes.is_first() and not own:
                shutil.rmtree(self._workdir, ignore_errors=True)
            raise

    def _copy(self, experiment: Experiment) -> None:
        before = read_experiment(self._source)
        changed = changes(before, experiment)
        inputs = [name for name in INPUTS if name != "data.json" or not _changes_data(changed)]
        forked = Origin(
            str(self._source),
            self._step,
            changes=changed,
            rows=rows_trained(self._source, before, self._step),
            skipped_rows=self._skipped_rows() or None,
        )
        rows = metrics_until(self._source, self._step, before)
        self._workdir.parent.mkdir(parents=True, exist_ok=True)
        copy_until(self._source, self._workdir, forked, rows, inputs)


def refuse_data_of_fork(dataset: Dataset[Any, Any], workdir: Path) -> None:
    """Raises UserError if a fork that takes its first step cannot read this data.

    It may read other data than its origin if the configuration says so; the tokenizer, the classes
    and the shapes stay.
    """
    found = origin(workdir)
    if found.changes is None or (workdir / "config.json").exists():
        return
    source = Path(found.run or "")
    before, now = {**read_data_facts(source)}, dataset.description
    own = workdir / "data.json"  # there if the configuration names the same data
    if own.exists() and before.get("fingerprint") != now["fingerprint"]:
        raise UserError(
            f"the data changed since {source} was trained on it; if the fork shall go on with what "
            f"is there now, say so with --config.data.tokenizer.path={source}"
        )
    for name in ("sizes", "labels"):
        if before.get(name) != now.get(name):
            raise UserError(
                f"the {name} of the data are {now.get(name)}, and those of {source} are "
                f"{before.get(name)}: its model does not fit; begin a new run with its parameters: "
                "--fine_tune"
            )


def _with_tokenizer(experiment: Experiment, path: str) -> Experiment:
    tokenizer = dataclasses.replace(experiment.data.tokenizer, path=path)
    return dataclasses.replace(
        experiment, data=dataclasses.replace(experiment.data, tokenizer=tokenizer)
    )


def _is_free(change: str) -> bool:
    """Returns whether a fork may make a change, `path: before -> after`."""
    path = change.partition(":")[0]

    def within(parts: Sequence[str]) -> bool:
        return any(path == part or path.startswith(f"{part}.") for part in parts)

    return path == "data.tokenizer.path" or (within(_FREE_IN_FORK) and not within(_FIXED_IN_FORK))


def _changes_data(changed: Sequence[str]) -> bool:
    data = [each for each in changed if each.startswith("data.")]
    return any(not each.startswith("data.cache_directory:") for each in data)


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))
