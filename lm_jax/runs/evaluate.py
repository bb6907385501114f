"""Measures a trained model: its own splits, any texts, continuations, positions, word vectors."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lm_jax import data
from lm_jax.analysis.inspect import embedding_table
from lm_jax.build import BuiltExperiment, measure
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.data.cache import MappedFiles, mapped_files
from lm_jax.data.documents import SOURCES
from lm_jax.data.text.config import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation import token_scores
from lm_jax.evaluation.loss_sums import (
    PositionSums,
    sum_by_position,
)
from lm_jax.evaluation.token_scores import Scorer, Scores
from lm_jax.evaluation.word_vectors import WordVectors, word_vectors
from lm_jax.generation.prompts import longest_context
from lm_jax.host import host_memory
from lm_jax.objectives import OBJECTIVES
from lm_jax.objectives.validation import validate
from lm_jax.parallel import processes, sharding
from lm_jax.runs import workdir
from lm_jax.runs.loaded_model import LoadedModel
from lm_jax.runs.run_data import data_of
from lm_jax.runs.text_evaluation import (
    TextModel,
    losses_behind_opening,
    measures_of_texts,
    sum_texts,
)

_UNMOVED: Mapping[str, str] = {}


def split_of(run: LoadedModel, split: str, moved: Mapping[str, str] = _UNMOVED) -> Any:
    """Returns the `train`, `validation` or `test` split that the run was trained with.

    The work directory holds copies of held-out splits that are not large. All else is prepared
    again from the training data.

    Args:
      moved: where the data is now, by the field of `data` (of `PLACES`) that said where it was.

    Raises:
      UserError: the data cannot be read, or it changed since, or there is no such split.
    """
    return _split_and_files(run, split, moved)[0]


@contextlib.contextmanager
def _unchanging_split(run: LoadedModel, split: str, moved: Mapping[str, str]) -> Iterator[Any]:
    """Yields `split_of`; raises UserError at the end if its files changed meanwhile."""
    found, files = _split_and_files(run, split, moved)
    yield found
    if files is not None:
        processes.together(files.refuse_change)


def _split_and_files(
    run: LoadedModel, split: str, moved: Mapping[str, str]
) -> tuple[Any, MappedFiles | None]:
    """Returns `split_of`, and the files that it is mapped from."""
    config = run.built.experiment.data
    if source := workdir.read_description(run.workdir).get("imported_from"):
        raise UserError(
            f"{run.workdir} was imported and has no {split} split (from {source}); measure texts "
            "with --text=FILES"
        )
    if split == "test" and "test" not in workdir.read_description(run.workdir):
        raise UserError(
            f"{run.workdir} was trained without a test split; name one with data.test_path in a "
            "new run, or measure texts with a run on plain text: --text=FILES"
        )
    if split != "train" and not moved:
        files = mapped_files(run.workdir / split)
        copy = data.load_held_out(config, run.workdir, split)
        if copy is not None:
            return copy, files
    dataset = data_of(run.workdir, config, moved)
    return dataset.splits[split], dataset.files


def evaluate(
    run: LoadedModel,
    *,
    split: str,
    eval_config: EvaluationConfig,
    moved: Mapping[str, str] = _UNMOVED,
) -> dict[str, Any]:
    """Returns the measures of the run's own `train`, `validation` or `test` split.

    `sources` holds those of each source of a mixture, where it is known.

    Args:
      moved: as for `split_of`.

    Raises:
      UserError: the windows do not fit the text, or the data changed since training.
    """
    _check_evaluation(run, eval_config)
    facts: dict[str, Any] = {**workdir.read_description(run.workdir)}
    sources = facts.get(SOURCES[split], {})
    with _unchanging_split(run, split, moved) as examples:
        return measure(
            run.built, run.losses, run.variables, examples, run.tokenizer, eval_config, sources
        )


def evaluate_texts(
    run: LoadedModel, texts: Mapping[str, Sequence[str]], *, eval_config: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """Returns the measures of any texts, by the name of each set of documents.

    The run's own tokenizer cuts them. Blank documents are left out, but for rolling windows.

    Raises:
      UserError: the run was not trained on plain text, a set holds no text, or the windows do not
        fit the model.
    """
    model = text_model(run, eval_config)
    found = {}
    for name, documents in texts.items():
        kept = [documents[number] for number in documents_with_text(documents, eval_config)]
        sums = sum_texts(model, name, kept, eval_config)
        found[name] = measures_of_texts(model, sums, eval_config)
    return found


def text_model(run: LoadedModel, eval_config: EvaluationConfig) -> TextModel:
    """Returns what measures plain texts with a run.

    Raises:
      UserError: the run was not trained on plain text, or the windows do not fit the model.
    """
    experiment = run.built.experiment
    if experiment.data.kind != DataConfig.kind or run.tokenizer is None:
        raise UserError(
            f"{run.workdir} was trained on {experiment.data.kind} data; plain texts are for "
            "language models (launch.translate and launch.classify read new texts of the others)"
        )
    _check_evaluation(run, eval_config)
    losses = losses_behind_opening(run.losses, run.tokenizer)
    return TextModel(run.name, run.built, losses, run.variables, run.tokenizer)


def documents_with_text(documents: Sequence[str], eval_config: EvaluationConfig) -> list[int]:
    """Returns the numbers of the documents that are measured.

    Blank ones are not, but for rolling windows: lm-evaluation-harness counts their words.
    """
    all_of_them = eval_config.windows == "rolling"
    return [number for number, text in enumerate(documents) if all_of_them or text.strip()]


def evaluate_by_position(
    run: LoadedModel,
    *,
    split: str,
    eval_config: EvaluationConfig,
    moved: Mapping[str, str] = _UNMOVED,
) -> PositionSums:
    """Returns the sums at each position of a window, for a model that predicts the next token.

    Args:
      moved: as for `split_of`.

    Raises:
      UserError: as `evaluate`, or the run predicts something else.
    """
    experiment = run.built.experiment
    if not run.built.objective.in_windows:
        in_windows = ", ".join(name for name, each in OBJECTIVES.items() if each.in_windows)
        raise UserError(
            f"{run.workdir} is trained for {experiment.objective}; the loss by position is of "
            f"models that read running text in windows ({in_windows})"
        )
    _check_evaluation(run, eval_config)
    length = eval_config.context_length or experiment.model.context_length
    with _unchanging_split(run, split, moved) as documents, sharding.on_mesh(run.built.mesh):
        batches, _ = run.built.objective.evaluation_batches(experiment, documents, eval_config)
        return sum_by_position(run.losses, run.variables, batches, length, run.built.mesh)


def scorer_of(run: LoadedModel) -> Scorer:
    """Returns what scores the tokens of texts with a run.

    Raises:
      UserError: the run does not predict the next token of plain text.
    """
    built = run.built
    if run.tokenizer is None or not built.objective.in_windows:
        in_windows = ", ".join(name for name, each in OBJECTIVES.items() if each.in_windows)
        raise UserError(
            f"{run.workdir} is trained for {built.experiment.objective}; continuations are scored "
            f"by models that predict the next token of plain text ({in_windows})"
        )
    return Scorer(
        built.model,
        run.variables,
        built.mesh,
        run.tokenizer,
        built.experiment.model.vocab_size,
        longest_context(built),
    )


def score(
    run: LoadedModel, contexts: Sequence[str], continuations: Sequence[str], *, begins: bool = True
) -> Scores:
    """Returns the nats and tokens of each continuation of its context, and whether it is greedy.

    Args:
      begins: whether a document begins before the context.

    Raises:
      UserError: the run is no language model of plain text, or a continuation is empty or too long.
    """
    return token_scores.score(scorer_of(run), contexts, continuations, begins=begins)


def vectors_of_words(run: LoadedModel) -> WordVectors:
    """Returns the embeddings of a run's vocabulary of words.

    Raises:
      UserError: its model has no embeddings, or its vocabulary is not one of words.
    """
    table = embedding_table(run.built, run.variables)
    if table is None or run.tokenizer is None or not run.tokenizer.tokens_are_words:
        raise UserError(
            f"{run.workdir} holds no vectors of words; give a run of a "
            "model with a table of embeddings whose data.tokenizer.kind is word"
        )
    first = run.tokenizer.end_of_document + 1  # the end of a document is no word
    indices = range(first, run.tokenizer.vocab_size)
    words = [run.tokenizer.decode(np.array([index])) for index in indices]
    return word_vectors(words, table[first : run.tokenizer.vocab_size])


def _check_evaluation(run: LoadedModel, eval_config: EvaluationConfig) -> None:
    validate(dataclasses.replace(run.built.experiment, evaluation=eval_config))
    sharding.check_divides(run.built.mesh, eval_config.batch_size, "an evaluation batch")
    refuse_huge_batch(run.built, eval_config.batch_size, "evaluation.batch_size")


def refuse_huge_batch(built: BuiltExperiment, rows: int, name: str) -> None:
    """Raises UserError if what the model reads of a batch alone exceeds the memory of all hosts."""
    memory = host_memory()
    shapes = built.example.values()
    needed = rows * sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in shapes)
    if memory is not None and needed > memory * jax.process_count():
        raise UserError(
            f"{name} is {rows}: the arrays of a batch take {needed / 1e9:.3g} GB, and there are "
            f"{memory / 1e9:.3g} GB of memory; choose a smaller one"
        )
