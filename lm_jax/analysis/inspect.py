"""The inside of a trained model as JSON, which the report draws.

Texts: attention maps, next-token predictions, beam search (`analyse_text`).
Classifiers: the confusion matrix, the most confident mistakes, first filters and feature maps, the
decision boundary of two inputs. Mixtures of experts: the load of each expert.
Embeddings: a map, and nearest neighbours.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from lm_jax import data
from lm_jax.analysis.text_example import analyse_text
from lm_jax.build import BuiltExperiment
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.data.classification.batches import Examples, LabelledSet, image_reader
from lm_jax.evaluation.loss_sums import predict
from lm_jax.evaluation.word_vectors import nearest, word_vectors
from lm_jax.generation.token_labels import namer
from lm_jax.models import family_of
from lm_jax.models.family import ExpertLoads, FeatureMaps
from lm_jax.models.parameters import path_of
from lm_jax.parallel import sharding
from lm_jax.reports.png import png, tiles

_MISTAKES = 24
_WORDS_ON_MAP = 150
_WORDS_WITH_NEIGHBOURS = 24
_FILTERS = 64
_BATCHES_THROUGH_EXPERTS = 16

SingleDevice = tuple[BuiltExperiment, Any] | None


def inspect(
    built: BuiltExperiment, variables: Any, dataset: data.Dataset, single_device: SingleDevice
) -> dict[str, Any]:
    """Returns the analysis of a trained model on its validation split; it may be empty.

    A collective operation: all processes have to call it.

    Args:
      built: the experiment.
      variables: the variables of the model.
      dataset: the data it was trained on.
      single_device: what `on_one_device` returns; where it is None, the parts that need a single
        text or image are left out.
    """
    analysis: dict[str, Any] = {}
    if dataset.labels:
        analysis |= _classification(built, variables, dataset, single_device)
    if expert_loads := family_of(built.experiment.model).expert_loads(built.experiment.model):
        analysis["expert_loads"] = _expert_loads(built, expert_loads, variables, dataset)
    table = embedding_table(built, variables)
    if table is not None and dataset.tokenizer is not None:
        tokens = np.asarray(dataset.train.tokens)
        name = namer(dataset.tokenizer, built.experiment)
        analysis["embedding"] = _embedding_map(table, dataset.tokenizer, tokens, name)
    if dataset.tokenizer is not None and single_device:
        analysis |= analyse_text(*single_device, dataset.validation, dataset.tokenizer)
    return analysis


def _expert_loads(
    built: BuiltExperiment, expert_loads: ExpertLoads, variables: Any, dataset: data.Dataset
) -> dict[str, list[list[int]]]:
    """Returns the tokens of each expert [l, e], by stack, in some validation batches."""
    batches, _ = built.objective.evaluation_batches(
        built.experiment, dataset.validation, built.experiment.evaluation
    )
    total: dict[str, np.ndarray] = {}
    count, placed = jax.jit(expert_loads), sharding.batch_sharding(built.mesh)
    with sharding.on_mesh(built.mesh):
        for batch in itertools.islice(batches, _BATCHES_THROUGH_EXPERTS):
            arrays = {name: value for name, value in batch.items() if name != "documents"}
            for name, load_le in count(variables, sharding.place_batch(arrays, placed)).items():
                total[name] = total.get(name, 0) + np.asarray(load_le, np.int64)
    return {name: load_le.tolist() for name, load_le in total.items()}


def embedding_table(built: BuiltExperiment, variables: Mapping[str, Any]) -> np.ndarray | None:
    """Returns the first embedding table [V, d] among the parameters; None without one."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        declared = built.declarations[path_of(path)]
        if declared.looked_up and "vocab" in declared.names:
            if not leaf.is_fully_addressable:  # split over several processes
                leaf = multihost_utils.process_allgather(leaf, tiled=True)
            return np.asarray(leaf, np.float32)
    return None


def project(table: np.ndarray) -> np.ndarray:
    """Returns the first two principal components [N, 2] of the rows of a table [N, d]."""
    centred = table - table.mean(axis=0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * scales[:2]


def _embedding_map(
    table: np.ndarray, tokenizer: data.Tokenizer, tokens: np.ndarray, name: Callable[[int], str]
) -> dict[str, Any]:
    """Returns the map and the neighbours of frequent tokens; {} with fewer than three.

    Args:
      name: (token) -> its label, which shows the spaces that tell pieces of words apart.
    """
    counts = np.bincount(tokens, minlength=len(table))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    texts = {i: tokenizer.decode(np.array([i])) for i in order}
    shown = [i for i, text in texts.items() if text.strip()]  # the end of a document has none
    rows = [i for i in shown[: 3 * _WORDS_ON_MAP] if "\ufffd" not in texts[i]][:_WORDS_ON_MAP]
    if len(rows) < 3:
        return {}
    points = project(table[rows])
    vectors = word_vectors([texts[i] for i in shown], table[shown])
    names = {texts[i]: name(i) for i in shown}
    neighbours = {}
    for i in rows[-_WORDS_WITH_NEIGHBOURS:]:
        near = nearest(vectors, [texts[i]], count=6)
        neighbours[name(i)] = [names[text] for text, _ in near]
    return {
        "words": [name(i) for i in rows],
        "points": points.round(4).tolist(),
        "neighbours": neighbours,
    }


def _classification(
    built: BuiltExperiment, variables: Any, labelled: LabelledSet, single_device: SingleDevice
) -> dict[str, Any]:
    eval_config = EvaluationConfig(batch_size=built.experiment.evaluation.batch_size)
    split = labelled.validation
    batches, count = built.objective.evaluation_batches(built.experiment, split, eval_config)
    with sharding.on_mesh(built.mesh):
        probabilities = predict(built.model, variables, batches, count, built.mesh)
    predicted = probabilities.argmax(axis=1)
    classes = len(labelled.labels)
    confusion = np.bincount(classes * split.targets + predicted, minlength=classes**2)
    analysis: dict[str, Any] = {
        "labels": labelled.labels,
        "confusion": confusion.reshape(classes, classes).tolist(),
        "mistakes": _mistakes(labelled, probabilities),
    }
    if labelled.tokenizer or not single_device:
        return analysis
    if split.inputs.shape[1:] == (1, 2, 1):
        analysis["boundary"] = _boundary(*single_device, labelled)
    model = built.experiment.model
    if (feature_maps := family_of(model).feature_maps(model)) is not None:
        analysis |= _filters(feature_maps, single_device[1], split)
    return analysis


def _mistakes(labelled: LabelledSet, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Returns the wrong predictions of highest probability, the highest first."""
    split = labelled.validation
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != split.targets)
    highest = np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")
    rows = []
    for index in wrong[highest][:_MISTAKES].tolist():
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


def _boundary(built: BuiltExperiment, variables: Any, labelled: LabelledSet) -> dict[str, Any]:
    """Returns the probability of the last class on a grid of inputs from -0.5 to 1.5."""
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


def _filters(feature_maps: FeatureMaps, variables: Any, split: Examples) -> dict[str, Any]:
    """Returns the filters of the first convolution, and its maps of the first validation image."""
    batch = image_reader(split.inputs)(np.arange(1), None)
    kernel, maps = feature_maps(variables, jnp.asarray(batch["inputs"]))
    analysis: dict[str, Any] = {}
    if kernel is not None:
        weights = np.asarray(kernel)  # [h, w, in, out]
        shown = weights.mean(axis=2) if weights.shape[2] != 3 else weights
        analysis["filters"] = png(tiles(np.moveaxis(shown, -1, 0)[:_FILTERS]), scale=6)
    sheet = tiles(np.moveaxis(np.asarray(maps)[0], -1, 0)[:_FILTERS])
    analysis["feature_maps"] = png(sheet, scale=2)
    analysis["feature_maps_of"] = png(split.inputs[0], scale=4)
    return analysis
