"""One class for each text or image: `classification`."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.config.experiment import EvaluationConfig, Experiment
from lm_jax.data.classification.batches import (
    Examples,
    LabelledSet,
    Reader,
    evaluation_examples,
    image_reader,
    text_reader,
    training_examples,
)
from lm_jax.data.interface import Batches
from lm_jax.errors import UserError
from lm_jax.models import family_name, family_of
from lm_jax.objectives.interface import (
    Evaluated,
    Objective,
    ids_of_masks,
    measures_in,
    share_of_rows,
    tokens,
)


def _example(experiment: Experiment, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    model = experiment.model
    if family_of(model).reads_images:
        shape = (rows, model.image_height, model.image_width, model.image_channels)
        return {"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}
    text = tokens(rows, model.context_length)
    return {"inputs": text, "segments": text}


def _reader(experiment: Experiment, examples: Examples) -> Reader:
    if experiment.data.has_text:
        return text_reader(examples.inputs, experiment.model.context_length)
    augmentation = experiment.data
    return image_reader(examples.inputs, augmentation.crop_padding, augmentation.flip)


def _training_batches(experiment: Experiment, labelled: LabelledSet) -> Batches:
    return training_examples(
        labelled.train,
        _reader(experiment, labelled.train),
        batch_size=experiment.training.batch_size,
        seed=experiment.seed,
        share=share_of_rows(experiment),
    )


def _evaluation_batches(
    experiment: Experiment, examples: Examples, config: EvaluationConfig
) -> Evaluated:
    batches = evaluation_examples(
        examples,
        _reader(experiment, examples),
        batch_size=config.batch_size,
        share=share_of_rows(experiment),
    )
    return batches, len(examples.targets)


def _baselines(labelled: LabelledSet) -> dict[str, float]:
    """Returns the accuracy of always naming the most frequent class of training."""
    majority = np.bincount(labelled.train.targets).argmax()
    return {"accuracy_of_majority_class": float(np.mean(labelled.validation.targets == majority))}


def _validate(experiment: Experiment) -> None:
    kind = "images" if family_of(experiment.model).reads_images else "labelled_text"
    if experiment.data.kind != kind:
        raise UserError(
            f"model family {family_name(experiment.model)} takes {kind} data, "
            f"not {experiment.data.kind}"
        )


OBJECTIVES = [
    Objective(
        name="classification",
        data_kinds=("labelled_text", "images"),
        unit="examples",
        example=_example,
        training_batches=_training_batches,
        evaluation_batches=_evaluation_batches,
        measures=measures_in("examples"),
        special_ids=ids_of_masks,  # a masked language model may become a classifier
        validate=_validate,
        fixed_rows=False,
        opens_texts=False,
        baselines=_baselines,
    )
]
