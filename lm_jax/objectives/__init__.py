"""What turns a data set into batches, and sums over it into measures: one `Objective` a name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import data
from lm_jax.config import experiment as experiments
from lm_jax.config.experiment import EvaluationConfig, Experiment
from lm_jax.data.interface import Batches
from lm_jax.evaluation.loss_sums import DocumentSums
from lm_jax.evaluation.metrics import prediction_measures, text_measures
from lm_jax.models.transformer.model import EncoderConfig
from lm_jax.parallel import sharding

Evaluated = tuple[Iterable[Mapping[str, np.ndarray]], int]  # batches, number of documents


class Objective(NamedTuple):
    """Functions of an experiment and its data set; each process gets its own rows of a batch."""

    unit: str  # what is predicted: rates are in these a second
    example: Callable[[Experiment, int], dict[str, jax.ShapeDtypeStruct]]
    """(experiment, rows) -> a batch that shows the shapes of what the model reads."""

    training_batches: Callable[[Experiment, Any], Batches]
    evaluation_batches: Callable[[Experiment, Any, EvaluationConfig], Evaluated]
    """(experiment, split, how) -> batches, and how many documents their sums are kept of."""

    measures: Callable[[DocumentSums, Any, Any], dict[str, Any]]
    """(sums, split, tokenizer) -> figures."""

    special_ids: Callable[[Experiment], int] = lambda _: 0
    """How many ids the model needs beyond the tokenizer's: the last of its vocabulary."""


def targets_per_step(experiment: Experiment) -> int:
    """How many targets one optimizer step predicts at most, over all processes."""
    sequences = experiments.sequences_per_step(experiment)
    if OBJECTIVES[experiment.objective].unit == "tokens":
        return sequences * experiment.model.context_length
    return sequences


def _processes(experiment: Experiment) -> dict[str, int]:
    """Which share of the rows of a batch is read here, and of how many."""
    if jax.process_count() == 1:
        return {}
    mesh = sharding.make_mesh(experiment.mesh)
    index, count = sharding.share_of_rows(mesh, jax.process_index())
    return {"process_index": index, "process_count": count}


def _tokens(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _language_example(experiment: Experiment, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"inputs": _tokens(rows, experiment.model.context_length)}


def _language_batches(experiment: Experiment, corpus: data.Corpus) -> Batches:
    carries = getattr(experiment.model, "carry_state", False)
    batches = data.contiguous_batches if carries else data.training_batches
    return batches(
        corpus.train,
        context_length=experiment.model.context_length,
        batch_size=experiments.sequences_per_step(experiment),
        seed=experiment.seed,
        **_processes(experiment),
    )


def _language_evaluation(
    experiment: Experiment, documents: data.TokenizedDocuments, how: EvaluationConfig
) -> Evaluated:
    batches = data.evaluation_batches(
        documents,
        context_length=how.context_length or experiment.model.context_length,
        batch_size=how.batch_size,
        stride=how.stride or None,
        **_processes(experiment),
    )
    return batches, len(documents.characters)


def _language_measures(
    sums: DocumentSums, documents: data.TokenizedDocuments, tokenizer: data.Tokenizer
) -> dict[str, Any]:
    return text_measures(
        sums, documents.characters, documents.bytes, documents.words, tokenizer.lossless
    )


def _corruption(
    experiment: Experiment, end: int, tokenizer: data.Tokenizer | None = None
) -> tuple[data.Corruption, int]:
    """What the objective does to a row, and how many tokens of text the row holds."""
    model, denoising = experiment.model, experiment.denoising
    if experiment.objective == "prefix_lm":
        return data.prefixing(), model.context_length
    common: dict[str, Any] = {"vocab_size": model.vocab_size, "end": end}
    if experiment.objective == "masked_lm":
        words = data.word_boundaries(tokenizer) if tokenizer and denoising.whole_words else None
        mask = data.masking(rate=denoising.fraction, words=words, **common)
        return mask, model.context_length
    shapes = _span_shapes(experiment)
    return data.span_corruption(**shapes, **common), data.text_length(**shapes)[0]


def _corrupted_batches(experiment: Experiment, corpus: data.Corpus) -> Batches:
    tokenizer = corpus.tokenizer
    corrupt, length = _corruption(experiment, tokenizer.end_of_document, tokenizer)
    return data.training_corrupted(
        corpus.train,
        corrupt,
        context_length=length,
        batch_size=experiments.sequences_per_step(experiment),
        seed=experiment.seed,
        **_processes(experiment),
    )


def _corrupted_evaluation(
    experiment: Experiment, documents: data.TokenizedDocuments, how: EvaluationConfig
) -> Evaluated:
    corrupt, length = _corruption(experiment, int(documents.tokens[0]))
    batches = data.evaluation_corrupted(
        documents,
        corrupt,
        context_length=length,
        batch_size=how.batch_size,
        **_processes(experiment),
    )
    return batches, len(documents.characters)


def _span_shapes(experiment: Experiment) -> dict[str, Any]:
    return {
        "source_length": experiment.model.source_length,
        "context_length": experiment.model.context_length,
        "density": experiment.denoising.fraction,
        "mean_span": experiment.denoising.mean_span_length,
    }


def _parallel_example(experiment: Experiment, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    target = _tokens(rows, experiment.model.context_length)
    example = dict.fromkeys(("inputs", "segments", "positions"), target)
    if not experiments.has_encoder(experiment):
        return example
    source = _tokens(rows, experiment.model.source_length)
    return example | dict.fromkeys(("source", "source_segments", "source_positions"), source)


def _parallel_lengths(experiment: Experiment) -> dict[str, Any]:
    return {
        "source_length": getattr(experiment.model, "source_length", None),
        "context_length": experiment.model.context_length,
        "truncate": experiment.data.truncate,
    }


def _parallel_batches(experiment: Experiment, pairs: data.ParallelSet) -> Batches:
    lengths = _parallel_lengths(experiment)
    # What is too long is refused before training, not after it.
    data.evaluation_packed_pairs(pairs.validation, batch_size=1, **lengths)
    return data.training_packed_pairs(
        pairs.train,
        batch_size=experiments.sequences_per_step(experiment),
        seed=experiment.seed,
        **lengths | _processes(experiment),
    )


def _parallel_evaluation(
    experiment: Experiment, split: data.ParallelSplit, how: EvaluationConfig
) -> Evaluated:
    batches = data.evaluation_packed_pairs(
        split, batch_size=how.batch_size, **_parallel_lengths(experiment) | _processes(experiment)
    )
    return batches, len(split.origins)


def _parallel_measures(
    sums: DocumentSums, split: data.ParallelSplit, tokenizer: data.Tokenizer
) -> dict[str, Any]:
    """The figures of the targets; where there are several tasks also those of each."""
    target = split.target
    is_whole = np.array_equal(sums.tokens, np.diff(target.starts))
    figures = text_measures(
        sums, target.characters, target.bytes, target.words, tokenizer.lossless and is_whole
    )
    if len(split.instructions) > 1:
        figures["tasks"] = {
            name: prediction_measures(
                DocumentSums(*(values[split.tasks == task] for values in sums)), "tokens"
            )
            for task, name in enumerate(split.instructions)
            if np.any(split.tasks == task)
        }
    return figures


def _pairs_example(experiment: Experiment, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"inputs": _tokens(rows)}


def _pairs(experiment: Experiment, corpus: data.Corpus) -> Batches:
    return data.training_pairs(
        corpus.train,
        vocab_size=corpus.tokenizer.vocab_size,
        window=experiment.model.window,
        subsampling=experiment.model.subsampling,
        batch_size=experiment.training.batch_size,
        seed=experiment.seed,
        **_processes(experiment),
    )


def _pairs_evaluation(
    experiment: Experiment, documents: data.TokenizedDocuments, how: EvaluationConfig
) -> Evaluated:
    batches = data.evaluation_pairs(
        documents,
        window=experiment.model.window,
        batch_size=how.batch_size,
        **_processes(experiment),
    )
    return batches, len(documents.characters)


def _example_reader(experiment: Experiment, examples: data.Examples) -> data.Reader:
    if isinstance(examples.inputs, data.TokenizedDocuments):
        return data.text_reader(examples.inputs, experiment.model.context_length)
    augmentation = experiment.data
    return data.image_reader(examples.inputs, augmentation.crop_padding, augmentation.flip)


def _labelled_example(experiment: Experiment, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    model = experiment.model
    if isinstance(experiment.data, data.LabelledTextConfig):
        text = _tokens(rows, model.context_length)
        return {"inputs": text, "segments": text}
    shape = (rows, model.image_height, model.image_width, model.image_channels)
    return {"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}


def _labelled_batches(experiment: Experiment, labelled: data.LabelledSet) -> Batches:
    return data.training_examples(
        labelled.train,
        _example_reader(experiment, labelled.train),
        batch_size=experiment.training.batch_size,
        seed=experiment.seed,
        **_processes(experiment),
    )


def _labelled_evaluation(
    experiment: Experiment, examples: data.Examples, how: EvaluationConfig
) -> Evaluated:
    read = _example_reader(experiment, examples)
    batches = data.evaluation_examples(
        examples, read, batch_size=how.batch_size, **_processes(experiment)
    )
    return batches, len(examples.targets)


OBJECTIVES = {
    "causal_lm": Objective(
        "tokens", _language_example, _language_batches, _language_evaluation, _language_measures
    ),
    "prefix_lm": Objective(
        "tokens",
        _language_example,
        _corrupted_batches,
        _corrupted_evaluation,
        lambda sums, *_: prediction_measures(sums, "tokens"),
    ),
    "masked_lm": Objective(
        "tokens",
        _language_example,
        _corrupted_batches,
        _corrupted_evaluation,
        lambda sums, *_: prediction_measures(sums, "tokens"),
        special_ids=lambda _: 1,
    ),
    "span_corruption": Objective(
        "tokens",
        _parallel_example,
        _corrupted_batches,
        _corrupted_evaluation,
        lambda sums, *_: prediction_measures(sums, "tokens"),
        special_ids=lambda experiment: data.text_length(**_span_shapes(experiment))[1],
    ),
    "seq2seq": Objective(
        "tokens",
        _parallel_example,
        _parallel_batches,
        _parallel_evaluation,
        _parallel_measures,
    ),
    "skip_gram": Objective(
        "pairs",
        _pairs_example,
        _pairs,
        _pairs_evaluation,
        lambda sums, *_: prediction_measures(sums, "pairs"),
    ),
    "classification": Objective(
        "examples",
        _labelled_example,
        _labelled_batches,
        _labelled_evaluation,
        lambda sums, *_: prediction_measures(sums, "examples"),
        # An encoder may have been trained on masked text, where it had a mask.
        special_ids=lambda experiment: int(isinstance(experiment.model, EncoderConfig)),
    ),
}
