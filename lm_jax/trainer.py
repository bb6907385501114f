"""Trains the experiment of a work directory: from the start, or on from where it was left."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax import completion, data, evaluation, hosts, profiling, sharding, training, workdir
from lm_jax.baselines import baselines
from lm_jax.checkpoints import Checkpoints, finished_steps
from lm_jax.experiment import Experiment, SamplesConfig
from lm_jax.experiment_checks import validate
from lm_jax.goodput import TimeSheet
from lm_jax.inspection import inspect
from lm_jax.objectives import targets_per_step
from lm_jax.programs import (
    Program,
    compile_experiment,
    measure,
    on_one_device,
    training_batches,
)
from lm_jax.report import write_report
from lm_jax.runs import Dataset, Run, abstract_state, complete, restore, validate_samples
from lm_jax.telemetry import Meter, Quiet, RunLog


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
      ValueError: before anything is written, when the experiment cannot run or the work directory
        belongs to another; later, when the loss is no longer finite.
      OSError: the work directory or the cache cannot be written.
    """
    started = time.monotonic()
    hosts.agree(workdir.plan(experiment, directory))
    validate(experiment)
    dataset = hosts.first_then_others(lambda: _dataset(experiment, directory))
    finished = workdir.results_of(experiment, directory)
    hosts.agree(workdir.identity(dataset) | {"the run is finished": finished is not None})
    if finished is not None:
        profiling.check(profile_steps, 0)
        return finished
    program = compile_experiment(experiment, dataset.description["sizes"])
    counts = program.model.fit is not None
    num_steps = 1 if counts else experiment.training.num_steps
    profiling.check(profile_steps, 0 if counts else num_steps)
    batches = None if counts else training_batches(program, dataset)
    resumes = bool(finished_steps(directory / "checkpoints"))
    hosts.agree({"whether there is a checkpoint": resumes})
    inherited = None if resumes else inherited_variables(experiment, dataset.tokenizer)
    check(program, dataset)
    hosts.together(
        lambda: workdir.write_inputs(directory, experiment, dataset) if hosts.is_first() else None
    )
    hosts.together(lambda: workdir.wait_for_inputs(directory))

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(directory / "checkpoints", experiment.checkpoint, keep_step=keep_step)
        )
        hosts.agree({"the steps of the checkpoints": checkpoints.steps()})
        state, notes = first_state(program, checkpoints, dataset, inherited)
        record = stack.enter_context(
            open_record(directory, program, dataset, checkpoints, state, started)
        )
        for line in [*notes, *_introduction(program, dataset, state)]:
            record.log.message(line)
        if packing := getattr(batches, "note", None):
            record.log.message(packing)
        time_sheet = TimeSheet(started)
        profile: dict[str, Any] = {}
        if batches is not None:
            hooks = training.Hooks(
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
    record: "Record",
    state: training.TrainState,
    batches: training.Batches,
    hooks: training.Hooks,
    keep_step: int,
    profile_steps: tuple[int, int] | None,
) -> tuple[training.TrainState, dict[str, Any]]:
    """The state where training ends or is stopped, and the `profile` of the steps to trace."""
    program, found = record.program, {}
    train_steps = training.jit_train_steps(program.train_step)
    with contextlib.ExitStack() as stack:
        tracer = None
        if profile_steps:
            place = record.directory / "profile"
            tracer = profiling.Tracer(train_steps, place, profile_steps, int(state.step))
            train_steps = stack.enter_context(contextlib.closing(tracer))
        with sharding.on_mesh(program.mesh):
            state = training.fit(
                train_steps,
                state,
                batches,
                program.experiment,
                program.mesh,
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


class Record(NamedTuple):
    """What is measured and saved while a run trains."""

    directory: Path
    program: Program
    dataset: Dataset
    losses: evaluation.LossFunction
    checkpoints: Checkpoints
    log: RunLog
    meter: Meter
    measured: dict[int, dict[str, Any]]  # by step

    def evaluate(self, step: int, state: training.TrainState) -> None:
        measures = measure(
            self.program,
            self.losses,
            training.variables_of(state),
            self.dataset.validation,
            self.dataset.tokenizer,
            self.program.experiment.evaluation,
        )
        self.measured[step] = measures
        self.log.evaluation(step, measures)
        if np.isnan(measures["cross_entropy"]):
            raise training.NonFiniteLoss(
                f"the validation loss of step {step} is not a number: this state was not "
                "saved; lower schedule.peak_learning_rate"
            )
        self.meter.pause()

    def save(self, step: int, state: training.TrainState) -> None:
        self.checkpoints.save(step, state, self.measured.get(step, {}).get("cross_entropy"))
        self.meter.pause()

    def conclude(
        self,
        state: training.TrainState,
        started: float,
        baselines: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """What a run came to whose last state this is.

        Args:
          baselines: those of its data, where they are known.
        """
        step = int(state.step)
        if step not in self.measured:  # resumed at its end, or counted
            self.evaluate(step, state)
            self.save(step, state)
        return {
            "parameters": _parameters(state),
            "validation": self.measured[step],
            "baselines": _baselines(self.program.experiment, self.dataset)
            if baselines is None
            else baselines,
            "timings": self.meter.timings() | {"total_seconds": time.monotonic() - started},
        }


@contextlib.contextmanager
def open_record(
    directory: Path,
    program: Program,
    dataset: Dataset,
    checkpoints: Checkpoints,
    state: training.TrainState,
    started: float,
    shows: bool = True,
) -> Iterator[Record]:
    """The record of a run that goes on from this state; its log is open as long as the context.

    Args:
      shows: whether people see its progress.
    """
    experiment = program.experiment
    num_steps = 1 if program.model.fit is not None else experiment.training.num_steps
    log: RunLog = Quiet()
    if hosts.is_first():
        log = RunLog(
            directory,
            total_steps=num_steps,
            tensorboard=experiment.tensorboard,
            first_step=int(state.step) if checkpoints.steps() else 0,
            shows=shows,
        )
    meter = Meter(
        log,
        unit=program.objective.unit,
        units_per_step=targets_per_step(experiment),
        every_steps=experiment.training.log_every_steps,
        num_steps=num_steps,
        started=started,
    )
    losses = evaluation.make_loss_function(program.model)
    with contextlib.closing(log):
        yield Record(directory, program, dataset, losses, checkpoints, log, meter, {})


def check(program: Program, dataset: Dataset) -> None:
    """Raises ValueError, before anything is written, if a model cannot be built or sampled from."""
    abstract_state(program)
    if dataset.tokenizer is not None and program.model.step is not None:
        completion.check(program, dataset.tokenizer, program.experiment.samples)


def inherited_variables(
    experiment: Experiment, tokenizer: data.Tokenizer | None
) -> dict[str, Any] | None:
    """The variables of the run to fine-tune from, as nested dicts; None: start afresh.

    Raises:
      ValueError: there is no such run, or its embeddings are of other tokens.
    """
    source = experiment.fine_tuning.workdir
    if not source:
        return None
    theirs = workdir.read_experiment(Path(source))
    if theirs.mup_base_width != experiment.mup_base_width:
        raise ValueError(
            f"fine_tuning.workdir {source} has mup_base_width {theirs.mup_base_width}, not "
            f"{experiment.mup_base_width}, so that its parameters mean others; set it to that"
        )
    if tokenizer and tokenizer.model != data.load_tokenizer(Path(source) / "tokenizer").model:
        raise ValueError(
            f"fine_tuning.workdir {source} has another tokenizer than data.tokenizer gives here: "
            "its embeddings would stand for other tokens; set data.tokenizer.path to it"
        )
    with contextlib.closing(
        Checkpoints(Path(source) / "checkpoints", theirs.checkpoint, read_only=True)
    ) as checkpoints:
        _, state = checkpoints.restore(None, "last", lambda _: None)
    return {"params": state["params"], **state["stats"]}


def first_state(
    program: Program,
    checkpoints: Checkpoints,
    dataset: Dataset,
    inherited: dict[str, Any] | None = None,
) -> tuple[training.TrainState, list[str]]:
    """The state that a run goes on from: of its newest checkpoint, or a fresh one; and remarks.

    Args:
      inherited: variables of another run, which a fresh state takes over where shapes agree.
    """
    notes: list[str] = []
    if checkpoints.steps():
        step, state = restore(program, checkpoints, "last", notes.append)
        return state, [*notes, f"resuming from the checkpoint of step {step}"]
    if program.model.fit is not None:
        variables = program.model.fit(dataset.train)
        state = training.counted_state(variables, program.experiment.seed)
        return sharding.replicated(state, program.mesh), notes
    state = training.init_state(
        program.model, program.optimizer, program.example, program.mesh, program.experiment.seed
    )
    if inherited is None:
        return state, notes
    state, kept, fresh = training.inherit(state, inherited)
    source = program.experiment.fine_tuning.workdir
    if not kept:
        raise ValueError(f"fine_tuning.workdir {source} has no array of this model's shapes")
    return state, [f"{kept} arrays of parameters taken from {source}, {fresh} made anew"]


def _parameters(state: training.TrainState) -> int:
    return sum(x.size for x in jax.tree.leaves(state.params))


def _introduction(program: Program, dataset: Dataset, state: training.TrainState) -> list[str]:
    mesh = ", ".join(f"{axis} {size}" for axis, size in program.mesh.shape.items())
    return [
        f"data: {dataset.description['summary']}",
        f"model: {_parameters(state):,} parameters; mesh: {mesh}",
    ]


def _baselines(experiment: Experiment, dataset: Dataset) -> dict[str, float]:
    if not experiment.evaluation.baselines or experiment.objective != "causal_lm":
        return {}
    assert isinstance(dataset, data.Corpus)
    if not dataset.tokenizer.lossless:
        return {}
    train, validation = (
        data.texts_of(dataset.tokenizer, split) for split in (dataset.train, dataset.validation)
    )
    return baselines(train, validation)


def write_results(record: Record, state: training.TrainState, results: dict[str, Any]) -> None:
    """Writes what a finished run came to, what it says, what is seen inside it, and the report."""
    dataset = record.dataset
    run = Run(
        record.directory,
        record.program,
        dataset.tokenizer,
        int(state.step),
        training.variables_of(state),
    )
    config = run.program.experiment.samples
    alone = on_one_device(run.program, run.variables)
    samples = []
    if alone and run.program.model.step is not None:
        here = run._replace(program=alone[0], variables=alone[1])
        samples = _samples(here, dataset, config)
    findings = inspect(run.program, run.variables, dataset, alone)
    if hosts.is_first():
        if samples:
            text = "".join(f"--- sample {i} ---\n{text}\n" for i, text in enumerate(samples, 1))
            (run.workdir / "samples.txt").write_text(text, encoding="utf-8")
        if findings:
            workdir.write_json(run.workdir / "inspection.json", findings)
        workdir.write_json(run.workdir / "evaluation.json", results)
        write_report(run.workdir)


def _samples(run: Run, dataset: Dataset, config: SamplesConfig) -> list[str]:
    """What follows the configured prompt; of pairs, without one, what held-out sources become."""
    if config.prompt or not isinstance(dataset, data.ParallelSet):
        if config.num_beams > 1:
            context = completion.longest_context(run.program)
            tokenizer = validate_samples(run, config)
            begin = len(completion.openings(run.program, tokenizer, [config.prompt]).tokens[0])
            new = min(config.max_new_tokens, context - begin)  # where a search has to end
            config = dataclasses.replace(config, max_new_tokens=new)
        return [text for text, *_ in complete(run, [config.prompt], config)]
    sources = [source for source, _ in dataset.validation.texts]
    sources = sources[:: max(len(sources) // max(config.num_samples, 1), 1)][: config.num_samples]
    one = dataclasses.replace(config, num_samples=1, num_best=1)
    found = complete(run, sources, one, truncate=True)
    return [f"{source}\n-> {text}" for source, (text, *_) in zip(sources, found, strict=True)]
