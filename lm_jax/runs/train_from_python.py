"""Trains from Python: an experiment that was built in code, a run further, or a run on texts."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lm_jax.analysis.text_windows import check_texts
from lm_jax.config.experiment import Experiment, shorter_warmup_note, with_shorter_warmup
from lm_jax.config.serialization import allow_code, with_changes
from lm_jax.data.text.config import DataConfig
from lm_jax.errors import UserError
from lm_jax.parallel import processes, sharding
from lm_jax.parallel.mesh import AUTO
from lm_jax.runs import train as training
from lm_jax.runs.initial_state import fine_tuned
from lm_jax.runs.loaded_model import LoadedModel
from lm_jax.runs.workdir import read_experiment
from lm_jax.telemetry.json_files import write_text
from lm_jax.telemetry.loggers import OnMetrics
from lm_jax.training.checkpoints import finished_steps

_WARMUP = "schedule.warmup_steps"
_TEXTS = "training_texts.jsonl"
_VALIDATION_TEXTS = "validation_texts.jsonl"
_HELD_OUT = 0.1  # of the end of each text, where no others are given to validate


def _ignore(step: int, metrics: Mapping[str, Any]) -> None:
    pass


def train(experiment: Experiment, directory: str | Path, on_metrics: OnMetrics = _ignore) -> None:
    """Trains an experiment in a work directory, or resumes it there.

    A warm-up that would take all steps becomes a tenth of them, as with `launch.train`. An
    interrupt, Ctrl-C or a notebook's stop button, saves the state after the dispatch in progress,
    and the same call resumes it.

    Args:
      on_metrics: called with each step that is logged and its numbers.

    Raises:
      UserError: as `lm_jax.runs.train.train`.
      OSError: as there.
    """
    allow_code(experiment)
    experiment = _with_shorter_warmup(experiment, Path(directory))
    _train(experiment, directory, on_metrics)


def _train(experiment: Experiment, directory: str | Path, on_metrics: OnMetrics) -> None:
    with _in_words_of_python(), processes.stopping_on_request() as stop_requested:
        training.train(experiment, directory, stop_requested, on_metrics=on_metrics)


def _with_shorter_warmup(experiment: Experiment, begun: Path | None = None) -> Experiment:
    """Returns the experiment as `with_shorter_warmup`, and says what it changed.

    Args:
      begun: the work directory, which may hold a run.
    """
    before = None
    if begun is not None:
        with suppress(UserError):  # there is no run, or none that can be read
            before = read_experiment(begun)
    result = with_shorter_warmup(experiment, before)
    note = shorter_warmup_note(experiment, result)
    if note and processes.is_first():
        print(note, file=sys.stderr)
    return result


def train_further(
    run: LoadedModel,
    directory: str | Path,
    changes: Mapping[str, Any],
    on_metrics: OnMetrics = _ignore,
) -> None:
    """Continues a run in a new work directory, with its optimizer's state and place in the data.

    Args:
      changes: values of the new experiment by dotted path; `training.num_steps` counts the steps
        before, too.
      on_metrics: as for `train`.

    Raises:
      UserError: as `lm_jax.runs.train.train_fork`.
    """
    experiment = with_changes(_experiment_here(run), changes)
    if _WARMUP not in changes:
        experiment = _with_shorter_warmup(experiment)
    with _in_words_of_python(), processes.stopping_on_request() as stop_requested:
        training.train_fork(
            experiment, directory, run.workdir, run.step, stop_requested, on_metrics=on_metrics
        )


def fine_tune(
    run: LoadedModel,
    directory: str | Path,
    texts: Sequence[str],
    validation_texts: Sequence[str] | None,
    changes: Mapping[str, Any],
    on_metrics: OnMetrics = _ignore,
) -> None:
    """Trains a run's parameters on texts, from step 0 in a new work directory, which keeps them.

    Args:
      validation_texts: texts to validate on; None: the last tenth of each training text.
      changes: as for `train_further`.
      on_metrics: as for `train`.

    Raises:
      UserError: the run does not read plain text, there are no texts, the directory was begun with
        others, or as `train`.
    """
    experiment = _experiment_here(run)
    if experiment.data.kind != DataConfig.kind:
        raise UserError(
            f"{run.workdir} was trained on {experiment.data.kind} data, and plain texts are for "
            "models of running text; build an experiment: lm_jax.train(experiment, workdir)"
        )
    last = max(finished_steps(run.workdir / "checkpoints"), default=run.step)
    if run.step != last:
        raise UserError(
            f"{run.workdir} was loaded at step {run.step}, and fine-tuning begins with its last "
            f"checkpoint, of step {last}; load that one: lm_jax.load(path)"
        )
    directory = Path(directory)
    files = {_TEXTS: _checked(texts, "texts")}
    if validation_texts is not None:
        files[_VALIDATION_TEXTS] = _checked(validation_texts, "validation_texts")
    validation_path = str((directory / _VALIDATION_TEXTS).absolute()) if len(files) > 1 else ""
    data = DataConfig(
        source="files",
        path=str((directory / _TEXTS).absolute()),
        validation_path=validation_path,
        split="tail",
        validation_fraction=_HELD_OUT,
        drop_repeated_paragraphs=False,
        cache_directory=experiment.data.cache_directory,
        tokenizer=experiment.data.tokenizer,
    )
    experiment = fine_tuned(dataclasses.replace(experiment, data=data), run.workdir)
    experiment = with_changes(experiment, changes)
    if _WARMUP not in changes:
        experiment = _with_shorter_warmup(experiment)
    with _written(directory, files):
        _train(experiment, directory, on_metrics)


# What programs say with flags -> what a caller from Python writes; the first that matches counts.
_FORK = r"(?:python -m launch\.train )?--from_workdir=(\S+)"
_LENGTH = r"--config\.training\.num_steps="
_IN_PYTHON = (
    (
        rf"{_FORK} --fine_tune(?: --workdir=NEW)?(?: --config\S+)*",
        r'lm_jax.load("\1").train("NEW", texts)',
    ),
    (
        rf"{_FORK} --workdir=NEW {_LENGTH}(\d+) --from_step=(\d+)",
        r'lm_jax.load("\1", "\3").train("NEW", num_steps=\2)',
    ),
    (rf"{_FORK} --workdir=NEW {_LENGTH}(\d+)", r'lm_jax.load("\1").train("NEW", num_steps=\2)'),
    (rf"{_FORK} --workdir=NEW", r'lm_jax.load("\1").train("NEW")'),
    (rf"{_LENGTH}(\S+)", r"num_steps=\1"),
    (r"--config\.([\w.]+)=(\S+)", r'changes={"\1": "\2"}'),
    ("--fine_tune", "give texts"),
    ("--workdir", "work directory"),
)


@contextmanager
def _in_words_of_python() -> Iterator[None]:
    """Lets errors of users name arguments where those of programs name flags."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for flags, words in _IN_PYTHON:
            message = re.sub(flags, words, message)
        error.args = (message,)
        raise


def _experiment_here(run: LoadedModel) -> Experiment:
    """Returns the experiment of a run, on a mesh of these devices if its own does not fit them."""
    experiment = read_experiment(run.workdir)
    try:
        sharding.make_mesh(experiment.mesh)
    except UserError:
        return dataclasses.replace(experiment, mesh=AUTO)
    return experiment


def _checked(texts: Sequence[str], name: str) -> str:
    """Returns texts that hold anything, a line of JSON each.

    Raises:
      UserError: none does.
    """
    kept = [text for text in check_texts(texts, name) if text.strip()]
    if not kept:
        raise UserError(f"{name} hold nothing but white space; give at least one text")
    return "".join(json.dumps({"text": text}) + "\n" for text in kept)


@contextmanager
def _written(directory: Path, files: Mapping[str, str]) -> Iterator[None]:
    """Writes files of a run, and removes them again if the run fails before it has begun.

    Raises:
      UserError: the run was begun with others.
    """
    has_begun = (directory / "config.json").exists()
    for name, content in files.items():
        path = directory / name
        if has_begun and (not path.exists() or path.read_bytes() != content.encode()):
            raise UserError(
                f"{directory} was begun with other texts than these; choose another work directory"
            )
    made = [path for path in (directory, *directory.parents) if not path.exists()]

    def write() -> None:
        if processes.is_first() and not has_begun:
            directory.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                write_text(directory / name, content)

    processes.together(write)
    try:
        yield
    except BaseException:
        if processes.is_first() and not (directory / "config.json").exists():
            for name in files:
                (directory / name).unlink(missing_ok=True)
            for path in made:
                if not any(path.iterdir()):
                    path.rmdir()
        raise
