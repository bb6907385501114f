"""Objectives that hide parts of a text: `prefix_lm`, `masked_lm`, `span_corruption`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lm_jax import data
from lm_jax.config.experiment import EvaluationConfig, Experiment, sequences_per_step
from lm_jax.data.documents import TokenizedDocuments, sample_of
from lm_jax.data.interface import Batches
from lm_jax.data.text.corpus import Corpus
from lm_jax.data.text.denoising_batches import (
    Corruption,
    evaluation_corrupted,
    masking,
    prefixing,
    span_corruption,
    text_length,
    training_corrupted,
)
from lm_jax.data.word_boundaries import word_boundaries
from lm_jax.errors import UserError
from lm_jax.models import family_of
from lm_jax.objectives import language_modeling, seq2seq
from lm_jax.objectives.interface import (
    Evaluated,
    Objective,
    ids_of_masks,
    measures_in,
    mix_of_run,
    share_of_rows,
)

# (experiment, end of document, tokenizer or None) -> how a row is corrupted, its text's tokens
Corrupter = Callable[[Experiment, int, data.Tokenizer | None], tuple[Corruption, int]]


def _prefixes(
    experiment: Experiment, end: int, tokenizer: data.Tokenizer | None
) -> tuple[Corruption, int]:
    return prefixing(), experiment.model.context_length


def _masks(
    experiment: Experiment, end: int, tokenizer: data.Tokenizer | None
) -> tuple[Corruption, int]:
    model, denoising = experiment.model, experiment.denoising
    words = word_boundaries(tokenizer) if tokenizer and denoising.whole_words else None
    mask = masking(
        rate=denoising.fraction,
        words=words,
        vocab_size=model.vocab_size,
        end=end,
        mask=family_of(model).mask_id(model),
    )
    return mask, model.context_length


def _spans(
    experiment: Experiment, end: int, tokenizer: data.Tokenizer | None
) -> tuple[Corruption, int]:
    shapes = _span_shapes(experiment)
    corrupt = span_corruption(**shapes, vocab_size=experiment.model.vocab_size, end=end)
    return corrupt, text_length(**shapes)[0]


def _span_shapes(experiment: Experiment) -> dict[str, Any]:
    return {
        "source_length": experiment.model.source_length,
        "context_length": experiment.model.context_length,
        "density": experiment.denoising.fraction,
        "mean_span": experiment.denoising.mean_span_length,
    }


def _training_batches(corrupter: Corrupter, experiment: Experiment, corpus: Corpus) -> Batches:
    tokenizer = corpus.tokenizer
    corrupt, length = corrupter(experiment, tokenizer.end_of_document, tokenizer)
    return training_corrupted(
        corpus.train,
        corrupt,
        context_length=length,
        batch_size=sequences_per_step(experiment),
        seed=experiment.seed,
        share=share_of_rows(experiment),
        mix=mix_of_run(experiment, corpus),
        packing=experiment.data.packing,
    )


def _evaluation_batches(
    corrupter: Corrupter,
    experiment: Experiment,
    documents: TokenizedDocuments,
    config: EvaluationConfig,
) -> Evaluated:
    corrupt, length = corrupter(experiment, int(documents.tokens[0]), None)
    batches = evaluation_corrupted(
        documents,
        corrupt,
        context_length=length,
        batch_size=config.batch_size,
        share=share_of_rows(experiment),
    )
    return batches, len(documents.characters)


def _objective(name: str, corrupter: Corrupter, **fields: Any) -> Objective:
    return Objective(
        name=name,
        data_kinds=("text",),
        unit="tokens",
        training_batches=partial(_training_batches, corrupter),
        evaluation_batches=partial(_evaluation_batches, corrupter),
        measures=measures_in("tokens"),
        sample=sample_of,
        **fields,
    )


def _refuse_classes(experiment: Experiment) -> None:
    model = experiment.model
    if family_of(model).classifies(model):
        raise UserError(
            f"model.num_classes is {model.num_classes}, but objective {experiment.objective} "
            "predicts tokens; leave it 0"
        )


OBJECTIVES = [
    _objective(
        "prefix_lm",
        _prefixes,
        example=language_modeling.example,
        packed=("segments", "positions", "prefix"),
    ),
    _objective(
        "masked_lm",
        _masks,
        example=language_modeling.example,
        packed=("segments", "positions"),
        special_ids=ids_of_masks,
        special_token="<mask>",
        closes_texts=True,
        validate=_refuse_classes,
    ),
    _objective(
        "span_corruption",
        _spans,
        example=seq2seq.example,
        special_ids=lambda experiment: text_length(**_span_shapes(experiment))[1],
    ),
]
