"""Targets given their sources: `seq2seq`, such as translation."""

from typing import Any

import jax
import numpy as np

from lm_jax import data
from lm_jax.config.experiment import EvaluationConfig, Experiment, sequences_per_step
from lm_jax.data.interface import Batches
from lm_jax.data.seq2seq.packing import evaluation_packed_pairs, training_packed_pairs
from lm_jax.data.seq2seq.parallel_corpus import ParallelSet, ParallelSplit
from lm_jax.evaluation.loss_sums import DocumentSums
from lm_jax.evaluation.metrics import prediction_measures, text_measures
from lm_jax.models import family_of
from lm_jax.objectives.interface import Evaluated, Objective, share_of_rows, tokens


def example(experiment: Experiment, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of packed targets and, for models with an encoder, of packed sources."""
    target = tokens(rows, experiment.model.context_length)
    shapes = dict.fromkeys(("inputs", "segments", "positions"), target)
    if not family_of(experiment.model).has_encoder:
        return shapes
    source = tokens(rows, experiment.model.source_length)
    return shapes | dict.fromkeys(("source", "source_segments", "source_positions"), source)


def _lengths(experiment: Experiment) -> dict[str, Any]:
    has_encoder = family_of(experiment.model).has_encoder
    return {
        "source_length": experiment.model.source_length if has_encoder else None,
        "context_length": experiment.model.context_length,
        "truncate": experiment.data.truncate,
    }


def _training_batches(experiment: Experiment, pairs: ParallelSet) -> Batches:
    lengths = _lengths(experiment)
    # A pair that is too long is refused before training, not after it.
    evaluation_packed_pairs(pairs.validation, batch_size=1, **lengths)
    return training_packed_pairs(
        pairs.train,
        batch_size=sequences_per_step(experiment),
        seed=experiment.seed,
        share=share_of_rows(experiment),
        **lengths,
    )


def _evaluation_batches(
    experiment: Experiment, split: ParallelSplit, config: EvaluationConfig
) -> Evaluated:
    batches = evaluation_packed_pairs(
        split,
        batch_size=config.batch_size,
        share=share_of_rows(experiment),
        **_lengths(experiment),
    )
    return batches, len(split.origins)


def _measures(
    sums: DocumentSums, split: ParallelSplit, tokenizer: data.Tokenizer
) -> dict[str, Any]:
    """Returns the metrics of the targets and, where there are several tasks, of each task."""
    target = split.target
    is_whole = np.array_equal(sums.tokens, np.diff(target.starts))
    metrics = text_measures(
        sums, target.characters, target.bytes, target.words, tokenizer.lossless and is_whole
    )
    if len(split.instructions) > 1:
        metrics["tasks"] = {
            name: prediction_measures(sums.of_documents(split.tasks == task), "tokens")
            for task, name in enumerate(split.instructions)
            if np.any(split.tasks == task)
        }
    return metrics


OBJECTIVES = [
    Objective(
        name="seq2seq",
        data_kinds=("parallel_text",),
        unit="tokens",
        example=example,
        training_batches=_training_batches,
        evaluation_batches=_evaluation_batches,
        measures=_measures,
        prompts_are_sources=True,
        characters=lambda split: split.target.characters,
    )
]
