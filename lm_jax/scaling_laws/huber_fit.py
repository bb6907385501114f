"""Fits laws in float64: minimises Huber's loss of log residuals from many starts at once.

Hoffmann et al. 2022, section 3.3: `min sum_i Huber_delta(log L(x_i) - log L_i)`, delta 1e-3. With
noise above delta this is nearly least absolute deviations, whose minimum is sharp: quasi-Newton
methods at their usual tolerances stop short of it (Besiroglu et al. 2024). Here every start runs a
damped Newton method. Its damping is the curvature of the quadratic that touches Huber's loss from
above: with full damping each step descends, as in iteratively reweighted least squares, and
without damping convergence is quadratic.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.plurals import counted
from lm_jax.scaling_laws.laws import Law

DELTA = 1e-3
_BATCH = 128  # fits at once, so that their arrays stay in the cache of a core
_LONGEST_STEP = 2.0
_TOLERANCE = 1e-13  # predicted gain of the next step, as a share of the objective


class Fit(NamedTuple):
    """A law at its optimum on P points."""

    law: Law
    theta: np.ndarray  # [K]
    centre: np.ndarray  # [V]: means of the log variables
    x: np.ndarray  # [V, P]: centred logs
    log_losses: np.ndarray  # [P]
    objective: float  # summed over points
    delta: float

    @property
    def residuals(self) -> np.ndarray:
        """Returns log L of the points minus log L of the law [P]."""
        return self.log_losses - log_loss(self.law, self.theta, self.x)

    @property
    def parameters(self) -> dict[str, float]:
        """Returns the published parameters by name."""
        return {n: float(v) for n, v in named(self.law, self.theta, self.centre).items()}


def fit(
    law: Law,
    variables: Sequence[np.ndarray],
    losses: np.ndarray,
    delta: float = DELTA,
    starts: np.ndarray | None = None,
) -> Fit:
    """Returns the best fit over all starts.

    Args:
      law: a law with K parameters and V variables.
      variables: V arrays [P], such as parameters and tokens, all positive. The last variable of a
        law by group is the index of each point's group.
      losses: [P], positive, in nats or any other unit.
      delta: where Huber's loss turns linear, in log L. The published fits use 1e-3; a value far
        above the noise gives least squares.
      starts: [S, K] in the law's own coordinates; by default the law's grid.

    Raises:
      UserError: there are no more points than parameters, too many of them are equal, or a value is
        not positive.
    """
    if len(losses) <= len(law.parameters):
        raise UserError(
            f"{counted(len(losses), 'point')} cannot fit the {len(law.parameters)} parameters of "
            f"{law.formula}; give at least {len(law.parameters) + 1}"
        )
    x, centre = centred(law, variables)
    distinct = len(np.unique(x, axis=1).T)
    if distinct < len(law.parameters):
        raise UserError(
            f"{len(losses)} points have {counted(distinct, 'different value')} of "
            f"{', '.join(law.variables)}, too few for the {len(law.parameters)} parameters of "
            f"{law.formula}; vary them more"
        )
    y = np.log(_positive("loss", losses))
    starts = law.starts(x, y) if starts is None else starts
    thetas, objectives = minimise(law, starts, x, y, delta=delta, steps=60)
    best = np.argsort(objectives)[:4]
    thetas, objectives = minimise(law, thetas[best], x, y, delta=delta)
    first = int(np.argmin(objectives))
    return Fit(law, thetas[first], centre, x, y, float(objectives[first]), delta)


def centred(law: Law, variables: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centred log variables [V, P], and the means of the logs [V]."""
    rows, centre = [], []
    for name, values in zip(law.variables, variables, strict=True):
        if name == "group":
            rows.append(np.asarray(values, np.float64))
            centre.append(0.0)
        else:
            logs = np.log(_positive(name, values))
            centre.append(float(np.mean(logs)))
            rows.append(logs - centre[-1])
    return np.stack(rows), np.array(centre)


def _positive(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, np.float64)
    bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if len(bad):
        raise UserError(
            f"{name} is {array[bad[0]]} at index {bad[0]} ({len(bad)} such values); "
            "laws are fitted to logarithms and need positive numbers"
        )
    return array


def named(law: Law, theta: np.ndarray, centre: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the published parameters [...] of theta [..., K] by name."""
    values = law.natural(theta, centre)
    with np.errstate(over="ignore"):
        return {
            name: np.exp(values[..., k]) if law.is_log[k] else values[..., k]
            for k, name in enumerate(law.parameters)
        }


def log_loss(law: Law, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns log L [..., P] of theta [..., K] at centred logs x [V, P], in float64."""
    with jax.enable_x64(True):
        flat = jnp.asarray(np.reshape(theta, (-1, theta.shape[-1])))
        logs = np.asarray(_log_losses(law, flat, jnp.asarray(x)))
    return logs.reshape(*theta.shape[:-1], x.shape[1])


@partial(jax.jit, static_argnums=0)
def _log_losses(law: Law, thetas: jax.Array, x: jax.Array) -> jax.Array:
    return jax.vmap(law.log_loss, (0, None))(thetas, x)


def minimise(
    law: Law,
    starts: np.ndarray,
    x: np.ndarray,
    log_losses: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    basis: np.ndarray | None = None,
    delta: float = DELTA,
    steps: int = 300,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the thetas [S, K] at which S descents end, and their summed objectives [S].

    Args:
      law: the law.
      starts: [S, K].
      x: [V, P], centred logs.
      log_losses: [P], or [S, P] with other data for each descent.
      weights: [S, P], how often each point counts in each descent; ones by default.
      basis: [K, M], the directions in which a descent may move; all by default.
      delta: where Huber's loss turns linear.
      steps: the maximum number of steps.
    """
    count, (size, points) = len(starts), (starts.shape[1], x.shape[1])
    weights = np.ones((count, points)) if weights is None else weights
    log_losses = np.broadcast_to(log_losses, (count, points))
    basis = np.eye(size) if basis is None else basis
    thetas, objectives = np.empty((count, size)), np.empty(count)
    with jax.enable_x64(True):
        for first in range(0, count, _BATCH):
            # Repeated rows fill the last batch, so that all batches share one compiled program.
            rows = np.arange(first, min(first + _BATCH, count))
            full = np.resize(rows, _BATCH)
            ends = _descents(
                law, starts[full], log_losses[full], weights[full], x, basis, delta, steps
            )
            thetas[rows], objectives[rows] = (np.asarray(end)[: len(rows)] for end in ends)
    return thetas, objectives


@partial(jax.jit, static_argnums=0)
def _descents(law, starts, log_losses, weights, x, basis, delta, steps):
    batched = (0, 0, 0, None, None, None, None)
    return jax.vmap(partial(_descend, law), batched)(
        starts, log_losses, weights, x, basis, delta, steps
    )


def _descend(law, start, y, weights, x, basis, delta, steps):
    """Runs Levenberg's method on one data set; returns the optimum [K] and its objective."""

    def residual(u):
        return law.log_loss(start + basis @ u, x) - y

    def objective(u):
        size = jnp.abs(residual(u))
        huber = jnp.where(size < delta, 0.5 * size**2, delta * (size - 0.5 * delta))
        return jnp.sum(weights * huber)

    identity = jnp.eye(basis.shape[1])

    def step(state):
        count, u, value, damping, _ = state
        r, jacobian = residual(u), jax.jacfwd(residual)(u)
        size = jnp.abs(r)
        gradient = jacobian.T @ (weights * jnp.clip(r, -delta, delta))
        curvature = (jacobian.T * (weights * (size < delta))) @ jacobian
        above = (jacobian.T * (weights * delta / jnp.maximum(size, delta))) @ jacobian
        floor = 1e-12 * (1 + damping) * jnp.maximum(jnp.trace(above), 1e-300)
        move = jnp.linalg.solve(curvature + damping * above + floor * identity, -gradient)
        move *= jnp.minimum(1.0, _LONGEST_STEP / jnp.max(jnp.abs(move)))
        there = objective(u + move)
        better = there < value
        done = (-gradient @ move < _TOLERANCE * value) | (damping > 1e12)
        return (
            count + 1,
            jnp.where(better, u + move, u),
            jnp.where(better, there, value),
            jnp.clip(jnp.where(better, damping / 4, damping * 6), 1e-10, 1e13),
            done,
        )

    u = jnp.zeros(basis.shape[1])
    state = (0, u, objective(u), 1.0, False)
    _, u, value, _, _ = jax.lax.while_loop(lambda s: (s[0] < steps) & ~s[4], step, state)
    return start + basis @ u, value
