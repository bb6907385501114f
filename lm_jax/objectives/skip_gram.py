"""Words that stand near a word, with negative sampling: `skip_gram` (word2vec)."""

import jax

from lm_jax.config.experiment import EvaluationConfig, Experiment
from lm_jax.data.documents import TokenizedDocuments, sample_of
from lm_jax.data.interface import Batches
from lm_jax.data.text.corpus import Corpus
from lm_jax.data.text.skip_gram_batches import evaluation_pairs, training_pairs
from lm_jax.errors import UserError
from lm_jax.objectives.interface import (
    Evaluated,
    Objective,
    measures_in,
    mix_of_run,
    share_of_rows,
    tokens,
)


def _example(experiment: Experiment, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"inputs": tokens(rows)}


def _training_batches(experiment: Experiment, corpus: Corpus) -> Batches:
    if mix_of_run(experiment, corpus) is not None:
        raise UserError(
            "data.sources mixes windows of text, which skip_gram does not read; name all files by "
            "data.path"
        )
    if experiment.data.packing != "stream":
        raise UserError(
            f"data.packing={experiment.data.packing} fills rows with texts, and skip_gram draws "
            "pairs of words; leave it stream"
        )
    return training_pairs(
        corpus.train,
        vocab_size=corpus.tokenizer.vocab_size,
        window=experiment.model.window,
        subsampling=experiment.model.subsampling,
        batch_size=experiment.training.batch_size,
        seed=experiment.seed,
        share=share_of_rows(experiment),
    )


def _evaluation_batches(
    experiment: Experiment, documents: TokenizedDocuments, config: EvaluationConfig
) -> Evaluated:
    batches = evaluation_pairs(
        documents,
        window=experiment.model.window,
        batch_size=config.batch_size,
        share=share_of_rows(experiment),
    )
    return batches, len(documents.characters)


OBJECTIVES = [
    Objective(
        name="skip_gram",
        data_kinds=("text",),
        unit="pairs",
        example=_example,
        training_batches=_training_batches,
        evaluation_batches=_evaluation_batches,
        measures=measures_in("pairs"),
        sample=sample_of,
        fixed_rows=False,
        smooths_labels=False,
        vectors_first=True,
        loss_note="negative sampling, nats",
    )
]
