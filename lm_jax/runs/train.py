"""Trains the experiment of a work directory: from the start, or on from where it was left."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_jax import data
from lm_jax.build import BuiltExperiment, build_experiment, training_batches
from lm_jax.config.experiment import Experiment
from lm_jax.data.interface import Batches
from lm_jax.errors import UserError
from lm_jax.generation import prompts
from lm_jax.objectives.validation import validate
from lm_jax.parallel import processes, sharding
from lm_jax.runs import workdir
from lm_jax.runs.recorder import Record, num_parameters, open_record, write_results
from lm_jax.runs.trained_run import Dataset, abstract_state, restore
from lm_jax.telemetry.goodput import TimeSheet
from lm_jax.training import profiler
from lm_jax.training.checkpoints import Checkpoints, finished_steps
from lm_jax.training.loop import Hooks, fit
from lm_jax.training.state import TrainState, counted_state, inherit, init_state
from lm_jax.training.train_step import jit_train_steps


def train(
    experiment: Experiment,
    directory: Path,
    stop_requested: Callable[[int], bool] = lambda step: False,
    profile_steps: tuple[int, int] | None = None,
    keep_step: int = 0,
) -> dict[str, Any]:
    """Trains to the end, or resumes and does, and returns what the run came to.

    The same work directory continues the same experiment from its newest checkpoint. When
    `stop_requested(step)` turns true the state is saved and the result says `"stopped": True`. A
    model that counts is fitted in one step. A finished run only returns what it came to. All
    processes of a job call this alike; the first one writes, but for their shares of checkpoints.

    Args:
      profile_steps: the first and the last step to trace, into `profile` of the work directory: see
        `profiling.Tracer`.
      keep_step: a step at which a dispatch ends, whose checkpoint is saved and stays; 0: none.

    Raises:
      UserError: before anything is written, when the experiment cannot run or the work directory
        belongs to another; later, when the loss is no longer finite.
      OSError: the work directory or the cache cannot be written.
    """
    started = time.monotonic()
    processes.agree(workdir.plan(experiment, directory))
    validate(experiment)
    dataset = processes.first_then_others(lambda: _dataset(experiment, directory))
    finished = workdir.results_of(experiment, directory)
    processes.agree(workdir.identity(dataset) | {"the run is finished": finished is not None})
    if finished is not None:
        profiler.check(profile_steps, 0)
        return finished
    built = build_experiment(experiment, dataset.sizes)
    counts = built.model.fit is not None
    num_steps = 1 if counts else experiment.training.num_steps
    profiler.check(profile_steps, 0 if counts else num_steps)
    batches = None if counts else training_batches(built, dataset)
    resumes = bool(finished_steps(directory / "checkpoints"))
    processes.agree({"whether there is a checkpoint": resumes})
    inherited = None if resumes else inherited_variables(experiment, dataset.tokenizer)
    check(built, dataset)
    processes.together(
        lambda: (
            workdir.write_inputs(directory, experiment, dataset) if processes.is_first() else None
        )
    )
    processes.together(lambda: workdir.wait_for_inputs(directory))

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(directory / "checkpoints", experiment.checkpoint, keep_step=keep_step)
        )
        processes.agree({"the steps of the checkpoints": checkpoints.steps()})
        state, notes = first_state(built, checkpoints, dataset, inherited)
        record = stack.enter_context(
            open_record(directory, built, dataset, checkpoints, state, started)
        )
        for line in [*notes, *_introduction(built, dataset, state)]:
            record.log.message(line)
        if packing := getattr(batches, "note", None):
            record.log.message(packing)
        time_sheet = TimeSheet(started)
        profile: dict[str, Any] = {}
        if batches is not None:
            hooks = Hooks(
                record.meter.log, record.evaluate, record.save, stop_requested, time_sheet.spent
            )
            state, profile = _take_steps(record, state, batches, hooks, keep_step, profile_steps)
        step = int(state.step)
        results: dict[str, Any] = {"workdir": str(directory), "step": step} | profile
        if step < num_steps:
            return results | {"stopped": True}
        results |= record.conclude(state, started)
        if batches is not None:
            results["goodput"] = time_sheet.goodput()
    write_results(record, state, results)
    return results


def _take_steps(
    record: Record,
    state: TrainState,
    batches: Batches,
    hooks: Hooks,
    keep_step: int,
    profile_steps: tuple[int, int] | None,
) -> tuple[TrainState, dict[str, Any]]:
    """The state where training ends or is stopped, and the `profile` of the steps to trace."""
    built, found = record.built, {}
    train_steps = jit_train_steps(built.train_step)
    with contextlib.ExitStack() as stack:
        tracer = None
        if profile_steps:
            place = record.directory / "profile"
            tracer = profiler.Tracer(train_steps, place, profile_steps, int(state.step))
            train_steps = stack.enter_context(contextlib.closing(tracer))
        with sharding.on_mesh(built.mesh):
            state = fit(
                train_steps,
                state,
                batches,
                built.experiment,
                built.mesh,
                hooks,
                save_at=[keep_step],
            )
        if tracer:
            tracer.close()
            found = {"profile": tracer.results} if tracer.results else {}
    return state, found


def _dataset(experiment: Experiment, directory: Path) -> Dataset:
    workdir.refuse_another_experiment(experiment, directory)
    dataset = data.prepare(experiment.data)
    workdir.refuse_other_data(dataset, directory)
    return dataset


def check(built: BuiltExperiment, dataset: Dataset) -> None:
    """Raises UserError, before anything is written, if a model cannot be built or sampled from."""
    abstract_state(built)
    if dataset.tokenizer is not None and built.model.step is not None:
        prompts.validate_for(built, dataset.tokenizer, built.experiment.samples)


def inherited_variables(
    experiment: Experiment, tokenizer: data.Tokenizer | None
) -> dict[str, Any] | None:
    """The variables of the run to fine-tune from, as nested dicts; None: start afresh.

    Raises:
      UserError: there is no such run, or its embeddings are of other tokens.
    """
    source = experiment.fine_tuning.workdir
    if not source:
        return None
    theirs = workdir.read_experiment(Path(source))
    if theirs.mup_base_width != experiment.mup_base_width:
        raise UserError(
            f"fine_tuning.workdir {source} has mup_base_width {theirs.mup_base_width}, not "
            f"{experiment.mup_base_width}, so that its parameters mean others; set it to that"
        )
    if tokenizer and tokenizer.model != data.load_tokenizer(Path(source) / "tokenizer").model:
        raise UserError(
            f"fine_tuning.workdir {source} has another tokenizer than data.tokenizer gives here: "
            "its embeddings would stand for other tokens; set data.tokenizer.path to it"
        )
    with contextlib.closing(
        Checkpoints(Path(source) / "checkpoints", theirs.checkpoint, read_only=True)
    ) as checkpoints:
        _, state = checkpoints.restore(None, "last", lambda _: None)
    return {"params": state["params"], **state["stats"]}


def first_state(
    built: BuiltExperiment,
    checkpoints: Checkpoints,
    dataset: Dataset,
    inherited: dict[str, Any] | None = None,
) -> tuple[TrainState, list[str]]:
    """The state that a run goes on from: of its newest checkpoint, or a fresh one; and remarks.

    Args:
      inherited: variables of another run, which a fresh state takes over where shapes agree.
    """
    notes: list[str] = []
    if checkpoints.steps():
        step, state = restore(built, checkpoints, "last", notes.append)
        return state, [*notes, f"resuming from the checkpoint of step {step}"]
    if built.model.fit is not None:
        variables = built.model.fit(dataset.train)
        state = counted_state(variables, built.experiment.seed)
        return sharding.replicated(state, built.mesh), notes
    state = init_state(
        built.model, built.optimizer, built.example, built.mesh, built.experiment.seed
    )
    if inherited is None:
        return state, notes
    state, kept, fresh = inherit(state, inherited)
    source = built.experiment.fine_tuning.workdir
    if not kept:
        raise UserError(f"fine_tuning.workdir {source} has no array of this model's shapes")
    return state, [f"{kept} arrays of parameters taken from {source}, {fresh} made anew"]


def _introduction(built: BuiltExperiment, dataset: Dataset, state: TrainState) -> list[str]:
    mesh = ", ".join(f"{axis} {size}" for axis, size in built.mesh.shape.items())
    base_width = built.experiment.mup_base_width
    mup = f" in muP from width {base_width}" if base_width else ""
    return [
        f"data: {dataset.description['summary']}",
        f"model: {num_parameters(state):,} parameters{mup}; mesh: {mesh}",
    ]
