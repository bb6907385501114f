"""Exact sums over a data set, and the measures derived from them once.

Every token of every document is predicted exactly once, and so is the end of every document.
Sums are kept a document in float64, so that no figure depends on the batch size, on how windows
are packed, or on the mesh.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lm_jax import sharding
from lm_jax.models.interface import Batch, Model, Variables


class DocumentSums(NamedTuple):
    """Sums over the targets of each document, float64 [D]."""

    nats: np.ndarray
    correct: np.ndarray
    tokens: np.ndarray  # targets: the document's tokens and its end


LossFunction = Callable[[Variables, Batch], tuple[jax.Array, jax.Array]]


def make_loss_function(model: Model) -> LossFunction:
    """The jitted function (variables, batch) -> nats, correct: one figure a target."""

    @jax.jit
    def losses(variables: Variables, batch: Batch):
        return model.loss(variables, batch, train=False, key=None)[0]

    return losses


def sum_by_document(
    losses: LossFunction,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    num_documents: int,
    mesh: Mesh,
) -> DocumentSums:
    """The sums of each document, the same on every process.

    Args:
      batches: this process's rows; `documents` [B, T] names the document of each target, and a
        target counts iff its weight is 1.
    """
    placed = sharding.batch_sharding(mesh)
    sums = np.zeros((3, num_documents))

    def add(batch: Mapping[str, np.ndarray], result: Any) -> None:
        result = (result.nats, result.correct, batch["documents"], batch["weights"])
        if jax.process_count() > 1:
            result = multihost_utils.process_allgather(result, tiled=True)
        nats, correct, documents, weights = (np.asarray(x) for x in result)
        counted = weights > 0
        for row, values in zip(sums, (nats, correct, weights), strict=True):
            row += np.bincount(
                documents[counted], values[counted].astype(np.float64), num_documents
            )

    pending = None
    for batch in batches:
        arrays = {name: value for name, value in batch.items() if name != "documents"}
        result = losses(variables, sharding.place_batch(arrays, placed))
        if pending:  # read one batch late: the device is already at work on the next
            add(*pending)
        pending = (batch, result)
    if pending:
        add(*pending)
    return DocumentSums(*sums)


def measures(
    sums: DocumentSums, characters: np.ndarray, bytes_: np.ndarray, words: np.ndarray
) -> dict[str, Any]:
    """The figures of a data set, from the sums and the sizes of the raw text of each document.

    cross_entropy = nats / tokens, perplexity = exp of it; bits per character, byte and word divide
    by what the raw text holds (Unicode code points, UTF-8 bytes, white-space separated words), so
    that models with different tokenizers compare. The nats of the ends of documents are included.
    Standard errors are over documents, of the ratio of two sums (delta method); null for one.
    """
    nats, tokens = float(sums.nats.sum()), float(sums.tokens.sum())
    bits = sums.nats / math.log(2)

    def per(denominator: np.ndarray) -> float | None:
        return float(bits.sum() / denominator.sum()) if denominator.sum() else None

    return {
        "cross_entropy": nats / tokens,
        "cross_entropy_standard_error": _ratio_standard_error(sums.nats, sums.tokens),
        "perplexity": _exp(nats / tokens),
        "bits_per_character": per(characters),
        "bits_per_character_standard_error": _ratio_standard_error(bits, characters),
        "bits_per_byte": per(bytes_),
        "bits_per_word": per(words),
        "word_perplexity": _exp(nats / float(words.sum())) if words.sum() else None,
        "accuracy": float(sums.correct.sum()) / tokens,
        "nats": nats,
        "tokens": int(tokens),
        "characters": int(characters.sum()),
        "bytes": int(bytes_.sum()),
        "words": int(words.sum()),
        "documents": len(sums.nats),
    }


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _ratio_standard_error(numerators: np.ndarray, denominators: np.ndarray) -> float | None:
    """Standard error of sum(numerators) / sum(denominators) over n sampled pairs.

    Cochran, Sampling Techniques (1977), eq. 6.13, for an infinite population.
    """
    n, total = len(numerators), denominators.sum()
    if n < 2 or not total:
        return None
    residuals = numerators - numerators.sum() / total * denominators
    return float(math.sqrt(n / (n - 1) * np.sum(residuals**2)) / total)
