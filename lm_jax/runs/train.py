"""Trains runs in their work directories: from the start, or on from where they were left."""

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lm_jax import data, trusted_code
from lm_jax.build import BuiltExperiment, build_experiment
from lm_jax.choices import choose
from lm_jax.config.experiment import Experiment, sequences_per_step
from lm_jax.config.serialization import allow_code, to_dict
from lm_jax.data.interface import Batches
from lm_jax.errors import UserError
from lm_jax.generation import prompts
from lm_jax.host import host_memory
from lm_jax.objectives.validation import validate
from lm_jax.parallel import processes, sharding
from lm_jax.runs import workdir
from lm_jax.runs.continuation import (
    Fork,
    growth,
    last_step_before_decay,
    refuse_another_experiment,
    refuse_data_of_fork,
)
from lm_jax.runs.evaluate import refuse_huge_batch
from lm_jax.runs.group_progress import AllDiverged, GroupProgress, Results
from lm_jax.runs.initial_state import first_state, inherited_variables
from lm_jax.runs.lock import locked
from lm_jax.runs.origin import rows_passed
from lm_jax.runs.page import write_missing_page
from lm_jax.runs.recorder import Record, open_record, sizes_of
from lm_jax.runs.restore import abstract_state
from lm_jax.runs.vmapped_runs import RunGroup, refuse_several_shapes
from lm_jax.telemetry.goodput import TimeSheet
from lm_jax.telemetry.json_files import write_json
from lm_jax.telemetry.loggers import LOGGERS, OnMetrics
from lm_jax.telemetry.run_digests import refuse_damaged_rows
from lm_jax.training import profiler
from lm_jax.training.checkpoints import Checkpoints, finished_steps
from lm_jax.training.loop import Hooks, fit
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import jit_train_steps


class Request(NamedTuple):
    """What the caller asks of training besides the experiments."""

    stop_requested: Callable[[int], bool] = lambda step: False
    """(last step) -> whether to save and stop there; the same on all processes."""

    profile_steps: tuple[int, int] | None = None
    """First and last step to trace, into `profile` of the work directory: `profiler.Tracer`."""

    keep_steps: Mapping[Path, int] = {}
    """A step of each run, where a dispatch ends, whose checkpoint is saved and kept."""

    on_metrics: Mapping[Path, OnMetrics] = {}
    """(step, metrics) -> None for each run, called by the first process for each logged step."""


def train(
    experiment: Experiment,
    directory: str | Path,
    stop_requested: Callable[[int], bool] = lambda step: False,
    profile_steps: tuple[int, int] | None = None,
    keep_step: int | None = None,
    on_metrics: OnMetrics = lambda step, metrics: None,
) -> Results:
    """Trains one run to the end, or resumes it, and returns its results: see `train_runs`.

    Args:
      keep_step: as `Request.keep_steps`; None: the last step before a final decay, from which the
        run can be trained longer.
      on_metrics: called with each step that is logged and its numbers, such as `train/loss` and
        `evaluation/cross_entropy`.

    Raises:
      UserError: before anything is written, when the experiment cannot run or the work directory
        belongs to another; later, when the loss is no longer finite.
      OSError: the work directory or the cache cannot be written.
    """
    directory = Path(directory)
    allow_code(experiment)
    if keep_step is None:
        validate(experiment)
        keep_step = last_step_before_decay(experiment)
    request = Request(
        stop_requested, profile_steps, {directory: keep_step}, {directory: on_metrics}
    )
    return train_runs({directory: experiment}, request)[directory]


def train_fork(
    experiment: Experiment,
    directory: str | Path,
    source: str | Path,
    step: int | None = None,
    stop_requested: Callable[[int], bool] = lambda step: False,
    profile_steps: tuple[int, int] | None = None,
    on_metrics: OnMetrics = lambda step, metrics: None,
    skip_batches: int | None = None,
) -> Results:
    """Trains a fork of another run, or resumes it, and returns its results: see `train`.

    The fork continues the parameters, the optimizer's state, the position in the data and the step
    of a checkpoint. Its schedule is evaluated at the steps of the whole run.

    Args:
      experiment: of the whole run, the steps before the fork included.
      source: the work directory to fork.
      step: of a checkpoint of `source`; None: its newest, or the one that `directory` began with.
      skip_batches: batches of `source` that come next and that the fork leaves out; None: as it
        began.

    Raises:
      UserError: as `train`; or the experiment cannot continue the checkpoint.
      OSError: as `train`.
    """
    allow_code(experiment)
    fork = Fork(Path(source), step, Path(directory), skip_batches)
    experiment = fork.experiment(experiment)
    validate(experiment)
    with fork.begun(experiment):
        return train(experiment, directory, stop_requested, profile_steps, on_metrics=on_metrics)


_PLAIN = Request()


def train_runs(
    runs: Mapping[Path, Experiment] | Mapping[str, Experiment], request: Request = _PLAIN
) -> dict[Path, Results]:
    """Trains runs of one shape together, each in its work directory, and returns their results.

    A work directory continues its experiment from its newest checkpoint; runs whose checkpoints are
    of one step go on together. When `stop_requested(step)` turns true the states are saved and the
    results say `"stopped": True`. A count-based model is fitted in one step. A finished run only
    returns its results. All processes of a job call this alike; the first one writes, except that
    each writes its shares of checkpoints.

    A single run that fails raises. In a group, a run that diverges or cannot be written leaves the
    others alone; its results hold an `error` and nothing else.

    Raises:
      UserError: before anything is written, when an experiment cannot run, a work directory belongs
        to another or another process trains in it, or the runs cannot be trained together; of a
        single run also when its loss is no longer finite.
      OSError: a work directory or the cache cannot be written.
    """
    started = time.monotonic()
    runs = {Path(directory): experiment for directory, experiment in runs.items()}
    for directory, experiment in runs.items():
        allow_code(experiment)
        processes.agree(workdir.plan(experiment, directory))
    refuse_several_shapes(list(runs.values()))
    for experiment in runs.values():
        validate(experiment)
        trusted_code.remember(to_dict(experiment))
    with contextlib.ExitStack() as held:
        processes.together(lambda: _lock(held, runs) if processes.is_first() else None)
        return _train_locked(runs, request, started)


def _lock(held: contextlib.ExitStack, runs: Mapping[Path, Experiment]) -> None:
    """Holds the work directories of the runs that are not finished: the first process for all."""
    for directory, experiment in runs.items():
        refuse_another_experiment(experiment, directory)
        workdir.refuse_foreign_files(directory)
    left = [d for d, experiment in runs.items() if workdir.results_of(experiment, d) is None]
    if left:
        held.enter_context(locked(left))


def _train_locked(
    runs: Mapping[Path, Experiment], request: Request, started: float
) -> dict[Path, Results]:
    """Trains runs whose work directories no other process writes."""
    dataset = processes.first_then_others(lambda: _prepare_data(runs))
    results: dict[Path, Results] = {}
    by_step: dict[int, dict[Path, Experiment]] = {}
    for directory, experiment in runs.items():
        finished = workdir.results_of(experiment, directory)
        identity = {} if dataset is None else workdir.identity(dataset)
        processes.agree(identity | {"the run is finished": finished is not None})
        if finished is not None:
            profiler.check(request.profile_steps, 0)
            if processes.is_first():
                refuse_damaged_rows(directory, finished.get("step", 0))
                write_missing_page(directory, experiment)
            results[directory] = finished
        else:
            by_step.setdefault(_newest_step(directory), {})[directory] = experiment
    for step, group in by_step.items():
        assert dataset is not None, "a run that goes on has data"
        if any(found.get("stopped") for found in results.values()):
            results |= {d: {"workdir": str(d), "step": step, "stopped": True} for d in group}
        else:
            results |= _train_group(group, dataset, request, started)
    return {directory: results[directory] for directory in runs}


def _prepare_data(runs: Mapping[Path, Experiment]) -> data.Dataset | None:
    """Returns the data of runs; None where it cannot be had and all of them are finished."""
    for directory, experiment in runs.items():
        refuse_another_experiment(experiment, directory)
        workdir.refuse_foreign_files(directory)
    directory, experiment = next(iter(runs.items()))
    try:
        dataset = data.prepare(_with_own_tokenizer(experiment.data, directory))
    except UserError as error:
        if not (directory / "data.json").exists():
            raise
        if all(workdir.results_of(each, path) is not None for path, each in runs.items()):
            return None
        place = f"if the data of {directory} moved, let data.path name its new place"
        raise UserError(f"{error}; {place}") from error
    for directory in runs:
        refuse_data_of_fork(dataset, directory)
        workdir.refuse_other_data(dataset, directory)
    return dataset


def _with_own_tokenizer(config: Any, directory: Path) -> Any:
    """Returns the configuration of data; a run whose tokenizer's origin is gone has its copy."""
    if not config.has_text or not config.tokenizer.path or Path(config.tokenizer.path).exists():
        return config
    if not (directory / "tokenizer" / "tokenizer.json").exists():
        return config
    tokenizer = dataclasses.replace(config.tokenizer, path=str(directory))
    return dataclasses.replace(config, tokenizer=tokenizer)


def _newest_step(directory: Path) -> int:
    """Returns the step of the newest checkpoint; 0 if there is none."""
    return max(finished_steps(directory / "checkpoints"), default=0)


def _train_group(
    runs: Mapping[Path, Experiment], dataset: data.Dataset, request: Request, started: float
) -> dict[Path, Results]:
    """Trains runs whose newest checkpoints are of one step."""
    group = RunGroup([build_experiment(experiment, dataset.sizes) for experiment in runs.values()])
    first = group.members[0]
    group.validate()
    profiler.check(request.profile_steps, 0 if first.model.is_count_based else first.num_steps)
    extra_rows = [rows_passed(d, experiment) for d, experiment in runs.items()]
    batches = None if first.model.is_count_based else group.batches(dataset, extra_rows)
    resumes = any(map(_newest_step, runs))
    processes.agree({"whether there is a checkpoint": resumes})
    inherited = None if resumes else inherited_variables(first.experiment, dataset.tokenizer)
    check(first, dataset)
    time_sheet = TimeSheet(started)
    grown = [growth(experiment, directory) for directory, experiment in runs.items()]
    with contextlib.ExitStack() as stack:
        for directory, experiment in runs.items():
            stack.enter_context(_removing_failed_start(directory, time_sheet))
            _write_inputs(directory, experiment, dataset)
        progress, state, notes = _open(stack, group, runs, dataset, inherited, request, started)
        for line in [*filter(None, dict.fromkeys(grown)), *notes]:
            progress.records[0].log.message(line)
        if inherited is not None:  # what the other run's parameters are worth here
            progress.evaluate(0, state)
        traced: Results = {}
        if batches is not None:
            if batches.note:
                progress.records[0].log.message(batches.note)
            hooks = Hooks(
                progress.log,
                progress.evaluate,
                progress.save,
                request.stop_requested,
                time_sheet.record_time,
            )
            if not progress.ended_early:  # a run that resumes where it has ended takes no step
                state, traced = _take_steps(progress, state, batches, hooks, request)
            traced |= {"goodput": time_sheet.goodput(), **batches.facts}
        results = progress.conclude(state, started, traced)
    return progress.write(state, results, started)


@contextlib.contextmanager
def _removing_failed_start(directory: Path, time_sheet: TimeSheet) -> Iterator[None]:
    """Removes what a new run has written if it fails before its first step.

    What the directory held before stays, and so does a run that was begun earlier.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    is_new = not (directory / "config.json").exists()
    before = set(directory.iterdir()) if directory.exists() else set()
    try:
        yield
    except BaseException:
        keeps = time_sheet.took_steps or finished_steps(directory / "checkpoints")
        if is_new and not keeps and processes.is_first():
            with contextlib.suppress(OSError):  # the error of the run is the one to show
                for path in set(directory.iterdir()) - before:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                for path in made:  # unless another run has written beside it
                    path.rmdir()
        raise


def _write_inputs(directory: Path, experiment: Experiment, dataset: data.Dataset) -> None:
    def write() -> None:
        if processes.is_first():
            workdir.write_inputs(directory, experiment, dataset)

    processes.together(write)
    processes.together(lambda: workdir.wait_for_inputs(directory))


def check(built: BuiltExperiment, dataset: data.Dataset) -> None:
    """Raises UserError, before anything is written, if a model cannot be built or sampled from.

    Nor is anything written if the state alone, or a batch, exceeds the memory.
    """
    _refuse_what_cannot_fit(abstract_state(built))
    experiment = built.experiment
    refuse_huge_batch(built, sequences_per_step(experiment), "training.batch_size")
    refuse_huge_batch(built, experiment.evaluation.batch_size, "evaluation.batch_size")
    if dataset.tokenizer is not None and built.model.step is not None:
        prompts.validate_for(built, dataset.tokenizer, built.experiment.samples)


def _refuse_what_cannot_fit(state: TrainState | None) -> None:
    on_devices, on_host = sharding.device_memory(), host_memory()
    memory = on_devices * jax.local_device_count() if on_devices else on_host
    if state is None or memory is None:
        return
    leaves = jax.tree.leaves((state.params, state.stats, state.opt_state))
    needed = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves) / jax.process_count()
    if needed > memory:
        raise UserError(
            f"parameters and optimizer state take {needed / 1e9:.3g} GB per process, and there are "
            f"{memory / 1e9:.3g} GB of memory; make the model smaller, or use more machines"
        )


def _open(
    stack: contextlib.ExitStack,
    group: RunGroup,
    runs: Mapping[Path, Experiment],
    dataset: data.Dataset,
    inherited: dict[str, Any] | None,
    request: Request,
    started: float,
) -> tuple[GroupProgress, TrainState, list[str]]:
    """Opens checkpoints and logs of all runs; returns their first state and remarks on it."""
    records: list[Record] = []
    states: list[TrainState] = []
    notes: list[str] = []
    for built, (directory, experiment) in zip(group.members, runs.items(), strict=True):
        kept = request.keep_steps.get(directory, 0)
        checkpoints = stack.enter_context(
            Checkpoints(directory / "checkpoints", experiment.checkpoint, keep_step=kept)
        )
        processes.agree({"the steps of the checkpoints": checkpoints.steps()})
        state, said, taken = first_state(built, checkpoints, dataset, inherited)
        if taken is not None and processes.is_first():
            write_json(directory / "inherited.json", taken._asdict())
        states.append(state)
        notes += [note for note in said if note not in notes]
        on_metrics = _on_metrics(stack, directory, experiment, request)
        opened = open_record(
            directory, built, dataset, checkpoints, state, started, not records, on_metrics
        )
        record = stack.enter_context(opened)
        losses = records[0].losses if records else record.losses  # compiled once
        records.append(record._replace(losses=losses))
    if len({int(state.step) for state in states}) > 1:
        raise UserError(
            "a newest checkpoint cannot be read, and the one before it is of another step than "
            f"those of the other runs ({'; '.join(notes)}); train these runs one by one"
        )
    state = group.stack(states)
    notes += _introduction(group, dataset, state) + records[0].about_sample()
    return GroupProgress(group, records, {}), state, notes


def _on_metrics(
    stack: contextlib.ExitStack, directory: Path, experiment: Experiment, request: Request
) -> OnMetrics:
    """Enters the experiment's logger; returns what calls it and the hook of the request."""
    own = request.on_metrics.get(directory, lambda step, metrics: None)
    if not processes.is_first():
        return own
    logger = choose(LOGGERS, experiment.logger, "logger")
    logged = stack.enter_context(logger(directory, to_dict(experiment)))

    def on_metrics(step: int, metrics: Mapping[str, float]) -> None:
        own(step, metrics)
        logged(step, metrics)

    return on_metrics


def _take_steps(
    progress: GroupProgress, state: TrainState, batches: Batches, hooks: Hooks, request: Request
) -> tuple[TrainState, Results]:
    """Returns the state where training ends or is stopped, and the profile of traced steps."""
    group, found = progress.group, {}
    train_steps = jit_train_steps(group.train_step())
    first = group.members[0]
    with contextlib.ExitStack() as stack:
        tracer = None
        if request.profile_steps:
            directory = progress.records[0].directory / "profile"
            tracer = profiler.Tracer(train_steps, directory, request.profile_steps, int(state.step))
            train_steps = stack.enter_context(contextlib.closing(tracer))
        stack.enter_context(sharding.on_mesh(first.mesh))
        with contextlib.suppress(AllDiverged):
            state = fit(
                train_steps,
                state,
                batches,
                first.experiment,
                first.mesh,
                hooks,
                num_runs=None if group.is_single else len(group.members),
                save_at=list(request.keep_steps.values()),
            )
        if tracer:
            tracer.close()
            found = {"profile": tracer.results} if tracer.results else {}
    return state, found


def _introduction(group: RunGroup, dataset: data.Dataset, state: TrainState) -> list[str]:
    built = group.members[0]
    split = [f"{axis} {size}" for axis, size in built.mesh.shape.items() if size > 1]
    devices = f"mesh: {', '.join(split)}" if split else "one device"
    base_width = built.experiment.mup_base_width
    mup = f" in muP from width {base_width}" if base_width else ""
    sizes = sizes_of(built, group.member_state(state, 0))
    trained = f", {sizes['trained_parameters']:,} trained" if "trained_parameters" in sizes else ""
    lines = [
        f"data: {dataset.description['summary']}",
        f"model: {sizes['parameters']:,} parameters{trained}{mup}; {devices}",
    ]
    tokenizer = dataset.tokenizer
    if tokenizer is not None and not tokenizer.lossless and not tokenizer.tokens_are_words:
        lines.insert(
            1,
            f"tokenizer: {tokenizer.kind} does not give back every text exactly: perplexity is "
            "reported, but no bits per character",
        )
    if not group.is_single:
        lines.append(f"{len(group.members)} runs together, from step {int(state.step)}")
    return lines
