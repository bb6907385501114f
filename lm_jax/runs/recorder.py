"""Measures, saves and shows a run while it trains and after it has ended."""

import contextlib
import dataclasses
import math
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax import data
from lm_jax.analysis.inspect import inspect
from lm_jax.build import BuiltExperiment, measures_of, on_one_device, sum_documents
from lm_jax.config.experiment import SamplesConfig, sequences_per_step
from lm_jax.data.documents import SOURCES, Sample, sample_of_sources
from lm_jax.evaluation.loss_sums import DocumentSums, MeasuredFunction, make_loss_function
from lm_jax.generation.prompts import encode_prompts, num_new_tokens
from lm_jax.objectives import targets_per_step
from lm_jax.parallel import processes
from lm_jax.runs.generate import complete, text_generator
from lm_jax.runs.loaded_model import LoadedModel
from lm_jax.runs.origin import rows_of_other_batches
from lm_jax.runs.page import write_page
from lm_jax.runs.restore import merged_variables
from lm_jax.runs.translate import translations
from lm_jax.runs.workdir import write_by_document
from lm_jax.telemetry.json_files import finite, is_finite, json_text, read_metrics
from lm_jax.telemetry.loggers import OnMetrics
from lm_jax.telemetry.run_digests import RowDigests, refuse_damaged_rows, write_noted
from lm_jax.telemetry.run_log import Quiet, RunLog
from lm_jax.telemetry.throughput import Meter
from lm_jax.training.checkpoints import Checkpoints
from lm_jax.training.early_stopping import ended_early
from lm_jax.training.loop import NonFiniteLoss, SkippedInARow
from lm_jax.training.optimizers import is_adapter
from lm_jax.training.state import TrainState, trained_leaves, variables_of

_FEWEST_TOKENS = 131_072  # of the validation split, however short the training
_MOST_TOKENS = 262_144


class Record(NamedTuple):
    """Measures and saves a run while it trains."""

    directory: Path
    built: BuiltExperiment
    dataset: data.Dataset
    sample: Sample  # of the validation split
    losses: MeasuredFunction
    checkpoints: Checkpoints
    log: RunLog
    meter: Meter
    skipped: SkippedInARow
    rows: RowDigests
    measured: dict[int, dict[str, Any]]  # the last measures, by their step
    sums: dict[int, DocumentSums]  # the sums behind them
    cross_entropies: dict[int, float]  # of all evaluations by step, those before resuming included

    @property
    def ended_early(self) -> str:
        """Why the run ends before its last step; "" while it goes on."""
        patience = self.built.experiment.training.stop_after_no_improvement
        return ended_early(self.cross_entropies, patience, self.built.num_steps)

    def evaluate(self, step: int, state: TrainState) -> None:
        config, (split, _, sources) = self.built.experiment.evaluation, self.sample
        sums = sum_documents(self.built, self.losses, variables_of(state), split, config)
        self.refuse_changed_data()
        measures = measures_of(self.built, sums, split, self.dataset.tokenizer, sources)
        for last in (self.measured, self.sums):
            last.clear()
        self.measured[step], self.sums[step] = measures, sums
        self.cross_entropies[step] = measures["cross_entropy"]
        self.log.evaluation(step, measures)
        if np.isnan(measures["cross_entropy"]):
            raise NonFiniteLoss(
                f"the validation loss of step {step} is not a number: this state was not "
                "saved; lower schedule.peak_learning_rate"
            )
        self.meter.pause()

    def refuse_changed_data(self) -> None:
        """Raises UserError if the files that the data is mapped from changed; a collective."""
        if self.dataset.files is not None:
            processes.together(self.dataset.files.refuse_change)

    def save(self, step: int, state: TrainState) -> None:
        self.refuse_changed_data()
        if processes.is_first():  # before the checkpoint: a run that resumes from it compares them
            self.rows.note(step)
        self.checkpoints.save(step, state, self.measured.get(step, {}).get("cross_entropy"))
        self.meter.pause()

    def conclude(
        self,
        state: TrainState,
        started: float,
        baselines: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Returns the results of a run from its last state.

        Args:
          baselines: the baselines of its data if they are known; None: compute them.
        """
        step = int(state.step)
        if step not in self.measured:  # resumed at its end, or counted
            self.evaluate(step, state)
            self.save(step, state)
        reason: dict[str, Any] = {"ended_early": self.ended_early} if self.ended_early else {}
        rows = read_metrics(self.directory)
        before = [row for row in rows if row["step"] == 0 and row["kind"] == "evaluation"]
        if before:  # a run that begins with another one's parameters
            measures = {n: v for n, v in before[0].items() if n not in ("step", "kind")}
            reason["validation_before"] = measures
        return reason | {
            **sizes_of(self.built, state),
            "validation": self.measured[step],
            **self._sample_size(),
            "baselines": self._baselines() if baselines is None else baselines,
            "timings": self.meter.timings() | {"total_seconds": time.monotonic() - started},
        }

    def about_sample(self) -> list[str]:
        """Returns a line on what is measured; none where that is the whole validation split."""
        return [
            f"measured on {size['documents']:,} of {size['of']:,} validation documents, "
            f"{size['tokens']:,} of {size['of_tokens']:,} tokens; launch.evaluate measures all, "
            "and so does a larger evaluation.max_tokens"
            for size in self._sample_size().values()
        ]

    def _sample_size(self) -> dict[str, Any]:
        """Returns how much of the validation split is measured; {}: all of it."""
        if self.sample.numbers is None:
            return {}
        whole, part = self.dataset.validation, self.sample.documents
        return {
            "validation_sample": {
                "documents": len(part.characters),
                "of": len(whole.characters),
                "tokens": int(part.starts[-1]),
                "of_tokens": int(whole.starts[-1]),
            }
        }

    def _baselines(self) -> dict[str, float]:
        if not self.built.experiment.evaluation.baselines:
            return {}
        sampled = self.dataset._replace(validation=self.sample.documents)
        return self.built.objective.baselines(sampled)


def replay_command(directory: Path, step: int) -> str:
    """Returns the command that shows what a step of a run did."""
    return f"python -m launch.replay --workdir={shlex.quote(str(directory))} --step={step}"


@contextlib.contextmanager
def open_record(
    directory: Path,
    built: BuiltExperiment,
    dataset: data.Dataset,
    checkpoints: Checkpoints,
    state: TrainState,
    started: float,
    shows: bool = True,
    on_metrics: OnMetrics = lambda step, metrics: None,
) -> Iterator[Record]:
    """Opens the record of a run that continues from this state; closes its log on exit.

    Args:
      shows: whether progress is printed.
      on_metrics: called with each step that is logged and its numbers.
    """
    training, step = built.experiment.training, int(state.step)
    patience = training.stop_after_no_improvement
    cross_entropies = _cross_entropies(directory, step) if patience else {}
    # A collective: no process rewrites the file before all have read it.
    processes.agree({"the evaluations so far": sorted(cross_entropies)})
    log: RunLog = Quiet()
    if processes.is_first():
        has_checkpoint = bool(checkpoints.steps())
        if step and has_checkpoint:
            refuse_damaged_rows(directory, step)
        is_over = step >= built.num_steps or ended_early(cross_entropies, patience, built.num_steps)
        log = RunLog(
            directory,
            total_steps=built.num_steps,
            tensorboard=built.experiment.tensorboard,
            first_step=step if has_checkpoint else 0,
            shows=shows,
            measured_again=bool(is_over),
            on_metrics=on_metrics,
        )
    meter, losses = _meter(log, directory, built, step, started), make_loss_function(built.loss)
    with contextlib.closing(log):
        try:
            yield Record(
                directory,
                built,
                dataset,
                validation_sample(built, dataset),
                losses,
                checkpoints,
                log,
                meter,
                SkippedInARow(
                    training.stop_after_skipped,
                    lambda step: f"; what it read: {replay_command(directory, step)}",
                ),
                RowDigests(directory),
                {},
                {},
                cross_entropies,
            )
        except Exception as error:
            log.failed(error)
            raise


def _meter(
    log: RunLog, directory: Path, built: BuiltExperiment, step: int, started: float
) -> Meter:
    experiment = built.experiment
    per_step, extra_rows = (
        targets_per_step(experiment),
        rows_of_other_batches(directory, experiment),
    )
    return Meter(
        log,
        unit=built.objective.unit,
        units_per_step=per_step,
        extra_units=extra_rows * per_step // sequences_per_step(experiment),
        every_steps=experiment.training.log_every_steps,
        num_steps=built.num_steps,
        started=started,
        skipped=_skipped_updates(directory, step),
    )


def _skipped_updates(directory: Path, step: int) -> int:
    """Returns how many updates up to this step were skipped, by the log of a run that resumes."""
    rows = read_metrics(directory) if step else []
    counts = [row.get("skipped_updates", 0) for row in rows if row.get("step", 0) <= step]
    return max(counts, default=0)


def validation_sample(built: BuiltExperiment, dataset: data.Dataset) -> Sample:
    """Returns the documents that a run measures itself on: `evaluation.max_tokens` decides."""
    config, most = built.experiment.evaluation, built.experiment.evaluation.max_tokens
    sources = dataset.description.get(SOURCES["validation"], {})
    if not most:
        if built.model.is_count_based:
            return Sample(dataset.validation, None, sources)
        every = config.every_steps
        evaluations = 1 + (built.num_steps // every if every else 0)
        # A step reads and writes its tokens three times as long as an evaluation reads them.
        tenth = 3 * built.num_steps * targets_per_step(built.experiment) // 10
        most = min(max(tenth // evaluations, _FEWEST_TOKENS), _MOST_TOKENS)
    sample, documents = built.objective.sample, dataset.validation
    if sources:
        return sample_of_sources(sample, documents, sources, most, dataset.tokenizer)
    return sample(documents, most, dataset.tokenizer)


def _cross_entropies(directory: Path, last_step: int) -> dict[int, float]:
    """Returns the validation cross-entropies that a run has logged, by step."""
    return {
        row["step"]: math.inf if row["cross_entropy"] is None else row["cross_entropy"]
        for row in read_metrics(directory)
        if row["kind"] == "evaluation" and row["step"] <= last_step
    }


def write_results(record: Record, state: TrainState, results: dict[str, Any]) -> None:
    """Writes results, samples, analysis and report of a finished run."""
    dataset = record.dataset
    run = LoadedModel(
        record.directory,
        record.built,
        dataset.tokenizer,
        int(state.step),
        merged_variables(record.built, variables_of(state)),
    )
    config = run.built.experiment.samples
    single_device = on_one_device(run.built, run.variables)
    samples: list[str] = []
    examples: list[dict[str, str]] = []
    if single_device and run.built.model.step is not None:
        here = dataclasses.replace(run, built=single_device[0], variables=single_device[1])
        samples = _samples(here, dataset, config)
        if config.num_samples and run.built.objective.prompts_are_sources:
            examples, results["translation"] = translations(here, dataset.validation)
    analysis = inspect(run.built, run.variables, dataset, single_device)
    if examples:
        analysis = {"translations": examples, **analysis}
    # A model that has diverged predicts no numbers, and a page cannot draw them.
    analysis = {name: found for name, found in analysis.items() if is_finite(found)}
    record.refuse_changed_data()
    if processes.is_first():
        if samples:
            text = "".join(f"--- sample {i} ---\n{text}\n" for i, text in enumerate(samples, 1))
            write_noted(run.workdir, "samples.txt", text)
        if analysis:
            write_noted(run.workdir, "inspection.json", json_text(analysis))
        characters = run.built.objective.characters(record.sample.documents)
        sums, numbers = record.sums[run.step], record.sample.numbers
        write_by_document(run.workdir, "validation", sums, run.step, characters, numbers)
        found = finite(results)
        write_page(run.workdir, run.config, found)
        # Last: with it the run is finished.
        write_noted(run.workdir, "evaluation.json", json_text(found))


def _samples(run: LoadedModel, dataset: data.Dataset, config: SamplesConfig) -> list[str]:
    """Texts that follow the configured prompt; for pairs without one, held-out sources answered."""
    if config.prompt or not run.built.objective.prompts_are_sources:
        if config.num_beams > 1:
            built, _, tokenizer = text_generator(run, config)
            prompt_length = len(encode_prompts(built, tokenizer, [config.prompt]).tokens[0])
            num_new = num_new_tokens(built, prompt_length, config.max_new_tokens)
            config = dataclasses.replace(config, max_new_tokens=num_new)
        return [text for text, *_ in complete(run, [config.prompt], config)]
    sources = [source for source, _ in dataset.validation.texts]
    sources = sources[:: max(len(sources) // max(config.num_samples, 1), 1)][: config.num_samples]
    one = dataclasses.replace(config, num_samples=1, num_best=1)
    found = complete(run, sources, one, truncate=True)
    return [f"{source}\n-> {text}" for source, (text, *_) in zip(sources, found, strict=True)]


def sizes_of(built: BuiltExperiment, state: TrainState) -> dict[str, int]:
    """Returns `parameters` of the model and, where not all are trained, `trained_parameters`.

    The factors of low-rank updates are no parameters of the model, but are trained.
    """
    is_factor = jax.tree.leaves(is_adapter(built.declarations)(state.params))
    leaves = zip(jax.tree.leaves(state.params), is_factor, strict=True)
    sizes = {"parameters": sum(x.size for x, factor in leaves if not factor)}
    if built.is_trained is None:
        return sizes
    trained = trained_leaves(state.params, built.is_trained)
    return sizes | {"trained_parameters": sum(x.size for x in trained)}
