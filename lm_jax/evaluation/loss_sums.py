"""Exact sums of losses over a data set.

Every token of every document, and the end of every document, is predicted exactly once. The sums
are float64 per document, so no figure depends on the batch size, on the packing of windows or on
the mesh.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from lm_jax.models.interface import (
    Batch,
    LossFunction,
    Model,
    Variables,
    counting_weights,
    named_values,
)
from lm_jax.parallel import sharding


class DocumentSums(NamedTuple):
    """Sums over the targets of each document, float64 [D], and of named terms over all of them."""

    nats: np.ndarray
    correct: np.ndarray
    tokens: np.ndarray  # targets: the document's tokens and its end
    named: Mapping[str, float] = {}  # averages of auxiliary losses and metrics

    def of_documents(self, chosen: np.ndarray | range) -> "DocumentSums":
        """Returns the sums of some documents: where `chosen`, bool [D], is true, or by number."""
        return DocumentSums(self.nats[chosen], self.correct[chosen], self.tokens[chosen])


class PositionSums(NamedTuple):
    """Sums over the targets at each position of a window, float64 [T]."""

    nats: np.ndarray
    tokens: np.ndarray


class MeasuredLosses(NamedTuple):
    """The part of `Losses` that evaluation reads: arrays shaped like the targets, named sums."""

    nats: jax.Array
    correct: jax.Array
    named: Mapping[str, tuple[jax.Array, jax.Array]]  # total and count, scalars


MeasuredFunction = Callable[[Variables, Batch], MeasuredLosses]


def make_loss_function(loss: LossFunction) -> MeasuredFunction:
    """Returns the jitted function (variables, batch) -> MeasuredLosses.

    Args:
      loss: (variables, batch, *, train, key) -> Losses, statistics, such as `Model.loss`.
    """

    @jax.jit
    def measured(variables: Variables, batch: Batch) -> MeasuredLosses:
        losses, _ = loss(variables, batch, train=False, key=None)
        named = {}
        for name, values in named_values(losses).items():
            weights = counting_weights(values, batch["weights"])
            named[name] = (jnp.sum(values * weights), jnp.sum(weights))
        return MeasuredLosses(losses.nats, losses.correct, named)

    return measured


def sum_by_document(
    losses: MeasuredFunction,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    num_documents: int,
    mesh: Mesh,
) -> DocumentSums:
    """Returns the sums of each document, the same on every process.

    Args:
      batches: the rows of this process; `documents` [B, T] holds the index of each target's
        document. A target counts if its weight is 1.
    """
    sums = np.zeros((3, num_documents))
    totals: dict[str, np.ndarray] = {}

    def add(named: Mapping[str, tuple[jax.Array, jax.Array]]) -> None:
        for name, pair in named.items():
            totals[name] = totals.get(name, np.zeros(2)) + np.array(pair, np.float64)

    for *values, documents in _counted(losses, variables, batches, mesh, _documents, add):
        for row, column in zip(sums, values, strict=True):
            row += np.bincount(documents, column.astype(np.float64), num_documents)
    named = {name: float(total / count) for name, (total, count) in totals.items()}
    nats, correct, tokens = sums
    return DocumentSums(nats, correct, tokens, named)


def sum_by_position(
    losses: MeasuredFunction,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    context_length: int,
    mesh: Mesh,
) -> PositionSums:
    """Returns the sums at each position of a window, the same on every process.

    A row may hold windows of several documents; positions count from the start of each window. The
    sums over all positions equal the sums over all documents.

    Args:
      batches: as for `sum_by_document`; without `positions` a row is one window.
    """
    sums = np.zeros((2, context_length))
    for nats, _, weights, positions in _counted(losses, variables, batches, mesh, _positions):
        for row, column in zip(sums, (nats, weights), strict=True):
            row += np.bincount(positions, column.astype(np.float64), context_length)
    return PositionSums(*sums)


def _documents(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    return batch["documents"]


def _positions(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    columns = np.arange(batch["weights"].shape[1], dtype=np.int32)
    return batch.get("positions", np.broadcast_to(columns, batch["weights"].shape))


def _counted(
    losses: MeasuredFunction,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    key: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    add: Callable[[Mapping[str, tuple[jax.Array, jax.Array]]], None] = lambda named: None,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields (nats, correct, weights, key), each [K], for the targets of each batch that count.

    Args:
      key: the array of a batch that tells where a target is counted.
      add: called with the named sums of each batch.
    """
    placed = sharding.batch_sharding(mesh)

    def read(batch: Mapping[str, np.ndarray], result: MeasuredLosses) -> tuple[np.ndarray, ...]:
        add(result.named)
        ours = (batch["weights"], key(batch))
        rows = _global_rows((result.nats, result.correct), ours, placed)
        counted = rows[2] > 0
        return tuple(values[counted] for values in rows)

    pending = None
    for batch in batches:
        arrays = {name: value for name, value in batch.items() if name != "documents"}
        result = losses(variables, sharding.place_batch(arrays, placed))
        if pending:  # read one batch late, while the device computes the next
            yield read(*pending)
        pending = (batch, result)
    if pending:
        yield read(*pending)


def _global_rows(
    results: tuple[jax.Array, ...], ours: tuple[np.ndarray, ...], placed: NamedSharding
) -> tuple[np.ndarray, ...]:
    """Gathers results and this process's arrays `ours` into the global batch."""
    if jax.process_count() == 1:
        return tuple(np.asarray(x) for x in (*results, *ours))
    # The same placement as the batch has: several processes may hold the same rows.
    there = sharding.place_batch({str(i): array for i, array in enumerate(ours)}, placed)
    return multihost_utils.process_allgather((*results, *there.values()), tiled=True)


def predict(
    model: Model,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    num_examples: int,
    mesh: Mesh,
) -> np.ndarray:
    """Returns the probability of each class for each example, [N, C], the same on every process.

    Args:
      batches: as for `sum_by_document`, with one target per example.
    """

    @jax.jit
    def probabilities(variables: Variables, batch: Batch) -> jax.Array:
        return jax.nn.softmax(model.apply(variables, batch, train=False, key=None)[0])

    placed, found = sharding.batch_sharding(mesh), None
    for batch in batches:
        arrays = {name: value for name, value in batch.items() if name != "documents"}
        result = (probabilities(variables, sharding.place_batch(arrays, placed)),)
        ours = (batch["documents"], batch["weights"])
        rows, documents, weights = _global_rows(result, ours, placed)
        found = np.zeros((num_examples, rows.shape[1]), np.float32) if found is None else found
        found[documents[weights > 0]] = rows[weights > 0]
    assert found is not None
    return found
