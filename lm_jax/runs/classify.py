"""Classes of new texts and images, by a trained classifier."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_jax import data
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.data.classification.batches import Examples
from lm_jax.data.content import read_lines
from lm_jax.data.records import records_of, text_field
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import predict
from lm_jax.parallel import sharding
from lm_jax.runs.loaded_model import LoadedModel
from lm_jax.runs.workdir import read_labels


def read_texts(path: str | Path) -> list[str]:
    """Returns the texts of a file: one per line, or the field `text` of JSONL or CSV.

    Raises:
      UserError: the file cannot be read, or holds no text.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"--text={path}: no such file; give a file with one text per line, or --text=- and the "
            "text itself on the standard input: echo 'TEXT' | python -m launch.classify ..."
        )
    records = records_of(path, ("text",), given_by="--text")
    if records is not None:
        found = [text_field(record, "text") for record in records]
    else:
        found = read_lines(path, "--text")
    found = [text.strip() for text in found if text.strip()]
    if not found:
        raise UserError(f"{path} holds no text; expected one per line")
    return found


def classify_texts(run: LoadedModel, texts: Sequence[str], *, batch_size: int = 32) -> np.ndarray:
    """Returns the probability of each class for each text, [N, C], in the order of `labels_of`.

    Only the beginning of a text that is longer than the model's context is read.

    Raises:
      UserError: the run is no classifier of texts.
    """
    labels_of(run)
    if run.tokenizer is None:
        raise UserError(f"{run.workdir} classifies images; give them with --image")
    return _probabilities(run, data.tokenize(run.tokenizer, texts), len(texts), batch_size)


def classify_images(run: LoadedModel, images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
    """Returns the probability of each class for images [N, H, W, C], [N, C].

    Pixels are uint8, or floats from 0 to 1, as in `data.classification.images`.

    Raises:
      UserError: the run is no classifier of images, or its images have another size.
    """
    expected = image_shape(run)
    if images.shape[1:] != expected:
        raise UserError(
            f"the images are {_size(images.shape[1:])}, and {run.workdir} was trained on "
            f"{_size(expected)} (height x width x channels); resize them"
        )
    return _probabilities(run, images, len(images), batch_size)


def labels_of(run: LoadedModel) -> list[str]:
    """Returns the names of the classes. Raises UserError if the run is no classifier."""
    labels = read_labels(run.workdir)
    if not labels:
        raise UserError(
            f"{run.workdir} is no classifier: it was trained for {run.built.experiment.objective}"
        )
    return labels


def image_shape(run: LoadedModel) -> tuple[int, int, int]:
    """Returns height, width and channels. Raises UserError if the run classifies no images."""
    labels_of(run)
    if run.tokenizer is not None:
        raise UserError(f"{run.workdir} classifies texts; give them with --text")
    height, width, channels = run.built.example["inputs"].shape[1:]
    return height, width, channels


def _probabilities(run: LoadedModel, inputs: object, count: int, batch_size: int) -> np.ndarray:
    examples = Examples(inputs, np.zeros(count, np.int32))  # the classes are not read
    eval_config = EvaluationConfig(batch_size=batch_size)
    built = run.built
    batches, count = built.objective.evaluation_batches(built.experiment, examples, eval_config)
    with sharding.on_mesh(built.mesh):
        return predict(built.model, run.variables, batches, count, built.mesh)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
