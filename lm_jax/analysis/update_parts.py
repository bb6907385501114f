"""What an update is made of: the gradient of each parameter, the loss and gradient of each row."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.build import BuiltExperiment
from lm_jax.models.parameters import path_of
from lm_jax.parallel import sharding
from lm_jax.training.gradients import parts_of
from lm_jax.training.loss_scaling import scale_of
from lm_jax.training.state import TrainState

Arrays = Mapping[str, np.ndarray]  # of a batch


class RowPart(NamedTuple):
    """What a row of a batch brings to its update."""

    row: int
    nats: float  # mean over the targets of the row
    targets: float
    gradient_norm: float | None  # of the row alone; None: it was not measured


class UpdateParts:
    """Measures the parts of an update by a batch from this state, which the update would consume.

    Dropout and other draws are those of the step, but where a row is measured alone.
    """

    def __init__(self, built: BuiltExperiment, state: TrainState, batch: Arrays):
        self._built, self._state, self._batch = built, state, batch
        mask = None if built.is_trained is None else built.is_trained(state.params)
        key = jax.random.fold_in(state.key, state.step)

        def norms(state: TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            parts = parts_of(state.params, mask)
            scale = scale_of(state.opt_state)
            grads, _, _ = built.gradients(parts, state.stats, batch, key, scale)
            whole = parts._replace(trained=grads).joined(lambda x: jnp.zeros(0, x.dtype))
            return {
                path_of(path): _norms(x, built.declarations[path_of(path)].names)
                for path, x in jax.tree_util.tree_leaves_with_path(whole)
                if x.size
            }

        self._norms = jax.jit(norms)
        self._nats = jax.jit(functools.partial(_nats_by_row, built))
        self._of_batch = self._measure(batch)

    def by_parameter(self) -> dict[str, float]:
        """Returns the norm of the gradient of each parameter, of a stack for each layer."""
        found: dict[str, float] = {}
        for path, norms in self._of_batch.items():
            if norms.ndim:
                found |= {f"{path}[{layer}]": float(norm) for layer, norm in enumerate(norms)}
            else:
                found[path] = float(norms)
        return found

    def by_row(self, most: int) -> list[RowPart]:
        """Returns the rows that have targets, the costliest first, `most` with their gradient.

        Where the gradient of the batch is not finite, these begin with rows that make it so.
        """
        weights = self._batch["weights"]
        targets = weights.reshape(len(weights), -1).sum(axis=1)
        nats = np.asarray(self._nats(self._state, self._placed(self._batch)))
        rows = [int(row) for row in np.flatnonzero(targets != 0)]  # a weight may be no number
        rows.sort(key=lambda row: (np.isfinite(nats[row]), -nats[row] if nats[row] > 0 else 0.0))
        guilty = self._not_finite(rows, most) if not np.isfinite(_norm(self._of_batch)) else []
        rows.sort(key=lambda row: row not in guilty)
        found = []
        for place, row in enumerate(rows):
            norm = self._norm_of([row]) if place < most else None
            found.append(RowPart(row, float(nats[row]), float(targets[row]), norm))
        return found

    def _not_finite(self, rows: Sequence[int], most: int) -> list[int]:
        """Returns rows whose gradient alone is not finite, at most this many, by halving."""
        if not rows or most < 1 or np.isfinite(self._norm_of(rows)):
            return []
        if len(rows) == 1:
            return list(rows)
        middle = len(rows) // 2
        found = self._not_finite(rows[:middle], most)
        return found + self._not_finite(rows[middle:], most - len(found))

    def _norm_of(self, rows: Sequence[int]) -> float:
        """Returns the norm of the gradient of some rows alone."""
        return _norm(self._measure(_only(self._batch, rows)))

    def _measure(self, batch: Arrays) -> dict[str, np.ndarray]:
        return jax.device_get(self._norms(self._state, self._placed(batch)))

    def _placed(self, batch: Arrays) -> dict[str, jax.Array]:
        return sharding.place_batch(batch, sharding.batch_sharding(self._built.mesh))


def _norm(norms_by_path: Mapping[str, np.ndarray]) -> float:
    """Returns the norm of a whole gradient."""
    squares = [np.square(norms.astype(np.float64)).sum() for norms in norms_by_path.values()]
    return float(np.sqrt(sum(squares)))


def _only(batch: Arrays, rows: Sequence[int]) -> Arrays:
    """Returns a batch of the same size that repeats some rows of a batch.

    A weight of zero would not do: zero times a number that is not finite is none either.
    """
    chosen = np.resize(np.asarray(rows), len(batch["weights"]))
    return {name: value[chosen] for name, value in batch.items()}


def _norms(gradient: jax.Array, names: Sequence[str | None]) -> jax.Array:
    """Returns the norm of a gradient, float32; of a stack of layers the norm of each, [L]."""
    axes = tuple(axis for axis, name in enumerate(names) if name != "layers")
    return jnp.sqrt(jnp.sum(jnp.square(gradient.astype(jnp.float32)), axes))


def _nats_by_row(
    built: BuiltExperiment, state: TrainState, batch: Mapping[str, jax.Array]
) -> jax.Array:
    """Returns the mean cross-entropy over the targets of each row, [B], as the step sees it."""
    variables = {"params": state.params, **state.stats}
    key = jax.random.fold_in(state.key, state.step)
    train = built.experiment.fine_tuning.parameters != "head"
    losses, _ = built.loss(variables, batch, train=train, key=key)
    axes = tuple(range(1, losses.nats.ndim))
    sums = jnp.sum(losses.nats * batch["weights"], axes)
    return sums / jnp.sum(batch["weights"], axes)
