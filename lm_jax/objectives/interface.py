"""The contract of an objective: one record, in one file, of all that is asked about it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.config.experiment import EvaluationConfig, Experiment, sequences_per_step
from lm_jax.data.batches import WHOLE, Share
from lm_jax.data.documents import Sample, SampleFunction
from lm_jax.data.interface import Batches
from lm_jax.data.text.corpus import Corpus
from lm_jax.data.text.mixture import Mix, mix_of
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import DocumentSums
from lm_jax.evaluation.metrics import prediction_measures
from lm_jax.models import Model, family_of
from lm_jax.models.interface import Batch, Losses, LossFunction, Variables
from lm_jax.parallel import sharding

Evaluated = tuple[Iterable[Mapping[str, np.ndarray]], int]
"""Evaluation batches, and the number of documents whose sums are kept apart."""


def model_loss(
    model: Model, variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None
) -> tuple[Losses, Variables]:
    """Returns the model's own loss, the cross-entropy of its targets, and new statistics."""
    return model.loss(variables, batch, train=train, key=key)


class Objective(NamedTuple):
    """What a model is trained to do: data, batches, loss, measures.

    The functions take an experiment and its data set. Each process makes its own rows of a batch.
    """

    name: str  # the name in configurations
    data_kinds: tuple[str, ...]  # keys of `lm_jax.data.config.KINDS`
    unit: str  # what is predicted: tokens, examples or pairs; rates are in units per second
    example: Callable[[Experiment, int], dict[str, jax.ShapeDtypeStruct]]
    """(experiment, rows) -> shapes of what the model reads of a batch."""

    training_batches: Callable[[Experiment, Any], Batches]
    evaluation_batches: Callable[[Experiment, Any, EvaluationConfig], Evaluated]
    """(experiment, split, evaluation config) -> batches and the number of documents."""

    measures: Callable[[DocumentSums, Any, Any], dict[str, Any]]
    """(sums, split, tokenizer) -> metrics by name."""

    loss: Callable[..., tuple[Losses, Variables]] = model_loss
    """(model, variables, batch, *, train, key) -> Losses, new statistics."""

    special_ids: Callable[[Experiment], int] = lambda experiment: 0
    """Ids that the model needs beyond the tokenizer's; they are the last of its vocabulary."""

    validate: Callable[[Experiment], None] = lambda experiment: None
    """Raises UserError for a configuration that this objective cannot train."""

    like: str = ""
    """Another objective, whose model families serve this one, too."""

    in_windows: bool = False
    """Whether running text is cut into windows, which may be strided and measured by position."""

    fixed_rows: bool = True
    """Whether a row is `context_length` tokens, so that batches can be sized in tokens."""

    packed: tuple[str, ...] = ()
    """Arrays that training batches hold besides `example`, where rows hold several documents."""

    smooths_labels: bool = True
    """Whether targets are a softmax over all classes, which label smoothing needs."""

    opens_texts: bool = True
    """Whether the model reads the token that ends a document before each text."""

    closes_texts: bool = False
    """Whether a model reads the end of a text that its tokenizer opens by another token (BERT)."""

    prompts_are_sources: bool = False
    """Whether a prompt is a source to be answered, not the beginning of the text."""

    baselines: Callable[[Any], dict[str, float]] = lambda dataset: {}
    """(data set) -> what simpler methods reach on the validation split, by their names: bits per
    character of counts and compressors, or the accuracy of the most frequent class."""

    sample: SampleFunction = lambda split, max_tokens, tokenizer: Sample(split, None)
    """(split, most tokens, tokenizer) -> the documents that a run measures itself on."""

    characters: Callable[[Any], np.ndarray | None] = lambda split: None
    """(split) -> characters of each document, where bits per character are measured."""

    special_token: str = ""
    """The name of the one special id, such as <mask>; without it, special ids are numbered."""

    vectors_first: bool = False
    """Whether the embeddings are what a run is for: its page shows them before the losses."""

    loss_note: str = ""
    """What the training loss is, where it is not the cross-entropy that evaluation reports."""


def loss_function(objective: Objective, model: Model) -> LossFunction:
    """Returns the loss of an objective with a model; it raises UserError for another result."""

    def loss(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None):
        found: Any = objective.loss(model, variables, batch, train=train, key=key)
        is_plain = type(found) is tuple  # and no NamedTuple, which Losses itself is
        types = tuple(type(part).__name__ for part in found) if is_plain else ()
        if not (
            is_plain
            and len(found) == 2
            and isinstance(found[0], Losses)
            and isinstance(found[1], Mapping)
        ):
            given = f"a tuple ({', '.join(types)})" if is_plain else f"a {type(found).__name__}"
            raise UserError(
                f"the loss of the objective {objective.name} returns {given}; expected the pair "
                "(Losses, new statistics), a dict, {} if there are none"
            )
        return found

    return loss


def is_served(objective: Objective, served: tuple[str, ...]) -> bool:
    """Returns whether a family that serves these objectives also serves this one."""
    return objective.name in served or objective.like in served


def share_of_rows(experiment: Experiment) -> Share:
    """Returns the rows of each batch that this process makes."""
    if jax.process_count() == 1:
        return WHOLE
    mesh = sharding.make_mesh(experiment.mesh)
    return Share(*sharding.share_of_rows(mesh, jax.process_index()))


def ids_of_masks(experiment: Experiment) -> int:
    """Returns 1 where a model has an id for masked tokens that its tokenizer does not have."""
    family = family_of(experiment.model)
    return int(family.has_mask_id and not family.mask_id(experiment.model))


def mix_of_run(experiment: Experiment, corpus: Corpus) -> Mix | None:
    """Returns how the sources of a training split are mixed; None: there is one source.

    Raises:
      UserError: `data.weights` or `data.epochs` cannot be used.
    """
    num_steps, rows = experiment.training.num_steps, sequences_per_step(experiment)
    return mix_of(experiment.data, corpus.description, rows, num_steps)


def tokens(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of an int32 array of tokens."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def measures_in(unit: str) -> Callable[[DocumentSums, Any, Any], dict[str, Any]]:
    """Returns the `measures` of an objective that reports predictions alone."""
    return lambda sums, split, tokenizer: prediction_measures(sums, unit)
