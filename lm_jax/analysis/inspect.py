"""What can be seen inside a trained model, as JSON that the report draws.

Texts: attention, what is expected next, beams (`analyse_text`).
Classifiers: the confusion matrix, the examples that they got most wrong, first filters and feature
maps, the boundary that two inputs are divided by. Embeddings: a map, and nearest neighbours.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from lm_jax import data
from lm_jax.analysis.text_example import analyse_text
from lm_jax.build import BuiltExperiment
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.evaluation.loss_sums import predict
from lm_jax.evaluation.word_vectors import nearest, word_vectors
from lm_jax.models.convnet.model import ConvNetConfig, feature_maps, first_filters
from lm_jax.parallel import sharding
from lm_jax.reports.png import png, tiles

_MISTAKES = 24
_WORDS_ON_MAP = 150
_WORDS_WITH_NEIGHBOURS = 24


Local = tuple[BuiltExperiment, Any] | None


def inspect(
    built: BuiltExperiment, variables: Any, dataset: data.Dataset, alone: Local
) -> dict[str, Any]:
    """The findings of a trained model on its validation split; {} where there are none.

    A collective, which all processes have to call.

    Args:
      alone: what `on_one_device` made of the program and its variables; without it, what takes
        only one text or image is left out.
    """
    findings: dict[str, Any] = {}
    if dataset.labels:
        findings |= _classification(built, variables, dataset, alone)
    table = embedding_table(variables)
    if table is not None and dataset.tokenizer is not None:
        tokens = np.asarray(dataset.train.tokens)
        findings["embedding"] = _embedding_map(table, dataset.tokenizer, tokens)
    if dataset.tokenizer is not None and alone:
        findings |= analyse_text(*alone, dataset.validation, dataset.tokenizer)
    return findings


def embedding_table(variables: Mapping[str, Any]) -> np.ndarray | None:
    """The first table of embeddings [V, d] among the parameters, or None."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        if getattr(path[-1], "key", None) == "embedding" and leaf.ndim == 2:
            if not leaf.is_fully_addressable:  # split over several processes
                leaf = multihost_utils.process_allgather(leaf, tiled=True)
            return np.asarray(leaf, np.float32)
    return None


def project(table: np.ndarray) -> np.ndarray:
    """The two principal components of the rows of a table [N, d], [N, 2]."""
    centred = table - table.mean(axis=0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * scales[:2]


def _embedding_map(
    table: np.ndarray, tokenizer: data.Tokenizer, tokens: np.ndarray
) -> dict[str, Any]:
    counts = np.bincount(tokens, minlength=len(table))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    texts = {i: tokenizer.decode(np.array([i])) for i in order}
    shown = [i for i, text in texts.items() if text.strip()]  # an end has none
    named = [(i, texts[i].strip()) for i in shown[: 3 * _WORDS_ON_MAP]]
    named = [(i, name) for i, name in named if "\ufffd" not in name][:_WORDS_ON_MAP]
    if len(named) < 3:
        return {}
    rows = [i for i, _ in named]
    points = project(table[rows])
    vectors = word_vectors([texts[i] for i in shown], table[shown])
    neighbours = {}
    for i, name in named[-_WORDS_WITH_NEIGHBOURS:]:
        near = nearest(vectors, [texts[i]], count=6)
        neighbours[name] = [word.strip() for word, _ in near]
    return {
        "words": [name for _, name in named],
        "points": points.round(4).tolist(),
        "neighbours": neighbours,
    }


def _classification(
    built: BuiltExperiment, variables: Any, labelled: data.LabelledSet, alone: Local
) -> dict[str, Any]:
    how = EvaluationConfig(batch_size=built.experiment.evaluation.batch_size)
    split = labelled.validation
    batches, count = built.objective.evaluation_batches(built.experiment, split, how)
    with sharding.on_mesh(built.mesh):
        probabilities = predict(built.model, variables, batches, count, built.mesh)
    predicted = probabilities.argmax(axis=1)
    classes = len(labelled.labels)
    confusion = np.bincount(classes * split.targets + predicted, minlength=classes**2)
    findings: dict[str, Any] = {
        "labels": labelled.labels,
        "confusion": confusion.reshape(classes, classes).tolist(),
        "mistakes": _mistakes(labelled, probabilities),
    }
    if labelled.tokenizer or not alone:
        return findings
    if split.inputs.shape[1:] == (1, 2, 1):
        findings["boundary"] = _boundary(*alone, labelled)
    if isinstance(built.experiment.model, ConvNetConfig):
        findings |= _filters(*alone, split)
    return findings


def _mistakes(labelled: data.LabelledSet, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """The examples to which the model gave the least probability, when it was wrong."""
    split = labelled.validation
    given = probabilities[np.arange(len(split.targets)), split.targets]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != split.targets)
    rows = []
    for index in wrong[np.argsort(given[wrong], kind="stable")][:_MISTAKES].tolist():
        best = int(probabilities[index].argmax())
        row = {
            "label": labelled.labels[split.targets[index]],
            "predicted": labelled.labels[best],
            "probability": float(probabilities[index, best]),
        }
        if labelled.tokenizer is None:
            row["image"] = png(split.inputs[index])
        else:
            documents = split.inputs
            first, last = documents.starts[index] + 1, documents.starts[index + 1]
            row["text"] = labelled.tokenizer.decode(documents.tokens[first:last])[:300]
        rows.append(row)
    return rows


def _boundary(built: BuiltExperiment, variables: Any, labelled: data.LabelledSet) -> dict[str, Any]:
    """The probability of the last class over a square of inputs, from -0.5 to 1.5."""
    side = np.linspace(-0.5, 1.5, 41, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 1, 2, 1)
    logits, _ = built.model.apply(variables, {"inputs": grid}, train=False, key=None)
    probabilities = np.asarray(jax.nn.softmax(logits)[:, -1]).reshape(41, 41)
    points = labelled.train.inputs.reshape(-1, 2)
    return {
        "probabilities": probabilities.round(4).tolist(),
        "points": [[float(x), float(y)] for x, y in points],
        "labels": labelled.train.targets.tolist(),
    }


def _filters(built: BuiltExperiment, variables: Any, split: data.Examples) -> dict[str, Any]:
    """The first convolution's filters, and what they make of the first validation image."""
    findings: dict[str, Any] = {}
    kernel = first_filters(variables)
    if kernel is not None:
        weights = np.asarray(kernel)  # [h, w, c, filters]
        shown = weights.mean(axis=2) if weights.shape[2] != 3 else weights
        findings["filters"] = png(tiles(np.moveaxis(shown, -1, 0)[:64]), scale=6)
    batch = data.image_reader(split.inputs)(np.arange(1), None)
    inputs = jnp.asarray(batch["inputs"])
    maps = np.asarray(feature_maps(built.experiment.model, variables, inputs))[0]
    findings["feature_maps"] = png(tiles(np.moveaxis(maps, -1, 0)[:64]), scale=2)
    findings["feature_maps_of"] = png(split.inputs[0], scale=4)
    return findings
