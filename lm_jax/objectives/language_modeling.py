"""Next-token prediction on running text: `causal_lm`."""

from typing import Any

import jax

from lm_jax import data
from lm_jax.choices import choose
from lm_jax.config.experiment import EvaluationConfig, Experiment, sequences_per_step
from lm_jax.data.documents import TokenizedDocuments, sample_of, texts_of
from lm_jax.data.interface import Batches
from lm_jax.data.text.corpus import Corpus
from lm_jax.data.text.mixture import mixed_batches
from lm_jax.data.text.rows import WINDOWS
from lm_jax.data.text.windows import (
    contiguous_batches,
    evaluation_batches,
    training_batches,
)
from lm_jax.errors import UserError
from lm_jax.evaluation.baselines import MOST_TRAINING_TOKENS, baselines
from lm_jax.evaluation.loss_sums import DocumentSums
from lm_jax.evaluation.metrics import text_measures
from lm_jax.models import family_of
from lm_jax.objectives.interface import (
    Evaluated,
    Objective,
    mix_of_run,
    share_of_rows,
    tokens,
)


def example(experiment: Experiment, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of windows of `context_length` tokens."""
    return {"inputs": tokens(rows, experiment.model.context_length)}


def _training_batches(experiment: Experiment, corpus: Corpus) -> Batches:
    windows: dict[str, Any] = {
        "context_length": experiment.model.context_length,
        "batch_size": sequences_per_step(experiment),
        "seed": experiment.seed,
        "share": share_of_rows(experiment),
    }
    mix = mix_of_run(experiment, corpus)
    carries_state = family_of(experiment.model).carries_state(experiment.model)
    packing = experiment.data.packing
    if carries_state and packing != "stream":
        raise UserError(
            f"data.packing={packing} parts texts into rows, and model.carry_state reads one text "
            "after another; set data.packing=stream or model.carry_state=false"
        )
    if mix is None and carries_state:
        return contiguous_batches(corpus.train, **windows)
    if mix is None:
        return training_batches(corpus.train, **windows, packing=packing)
    if carries_state:
        raise UserError(
            "data.sources mixes windows, and model.carry_state reads one text after another; set "
            "model.carry_state=false or train on one source"
        )
    return mixed_batches(corpus.train, mix, **windows)


def _evaluation_batches(
    experiment: Experiment, documents: TokenizedDocuments, config: EvaluationConfig
) -> Evaluated:
    batches = evaluation_batches(
        documents,
        context_length=config.context_length or experiment.model.context_length,
        batch_size=config.batch_size,
        stride=config.stride or None,
        windows=choose(WINDOWS, config.windows, "evaluation.windows"),
        share=share_of_rows(experiment),
    )
    return batches, len(documents.characters)


def _measures(
    sums: DocumentSums, documents: TokenizedDocuments, tokenizer: data.Tokenizer
) -> dict[str, Any]:
    return text_measures(
        sums, documents.characters, documents.bytes, documents.words, tokenizer.lossless
    )


def _baselines(corpus: Corpus) -> dict[str, float]:
    if not corpus.tokenizer.lossless:
        return {}
    counted = sample_of(corpus.train, MOST_TRAINING_TOKENS, corpus.tokenizer).documents
    train, validation = (
        texts_of(corpus.tokenizer, split) for split in (counted, corpus.validation)
    )
    return baselines(train, validation)


CAUSAL_LM = Objective(
    name="causal_lm",
    data_kinds=("text",),
    unit="tokens",
    example=example,
    training_batches=_training_batches,
    evaluation_batches=_evaluation_batches,
    measures=_measures,
    in_windows=True,
    packed=("segments", "positions"),
    baselines=_baselines,
    characters=lambda documents: documents.characters,
    sample=sample_of,
)
OBJECTIVES = [CAUSAL_LM]
