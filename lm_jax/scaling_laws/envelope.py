"""The envelope of training curves, after approach 1 of Hoffmann et al. 2022.

The paper fits lines to the best size at each of many budgets. These sizes form a staircase, whose
line is flatter than the law by 1/m^2 for m sizes. Here the lines go through the crossovers: the
budgets at which a size overtakes the next smaller one, where the geometric mean of both sizes is
optimal. For sizes in a geometric series under L(N,D) = E + A/N^alpha + B/D^beta the exponent of
this line is exact.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.scaling_laws.huber_fit import fit, log_loss
from lm_jax.scaling_laws.laws import power_offset
from lm_jax.scaling_laws.log_log_regression import Line, fit_line

_GRID = 1_500  # budgets, as in the paper
_FEWEST_POINTS = 4  # a curve; a local parabola has 3 parameters
_LAW_SIZE = 3  # parameters of a power law with offset
_LEAST_SQUARES = 10.0  # Huber's delta above every residual
_BANDWIDTHS = (0.15, 0.3, 0.6, 1.2, 2.4, 4.8)  # of the kernel, in log C


class SmoothedCurve(NamedTuple):
    """The loss along the training of one run, measured and smoothed."""

    size: float
    budgets: np.ndarray  # [T] training FLOPs so far
    losses: np.ndarray  # [T]
    smoothed: np.ndarray  # [T]


class EnvelopeFit(NamedTuple):
    """Power laws of the optimal size and tokens over budgets."""

    curves: list[SmoothedCurve]
    budgets: np.ndarray  # [X] crossovers: FLOPs where a size overtakes the next smaller one
    sizes: np.ndarray  # [X] geometric means of the two sizes
    losses: np.ndarray  # [X]
    edges: list[float]  # budgets of crossovers left out, where one of the two runs begins or ends
    size: Line
    tokens: Line


def fit_envelope(sizes: np.ndarray, budgets: np.ndarray, losses: np.ndarray) -> EnvelopeFit:
    """Returns lines through the crossovers of all smoothed curves.

    The smoother is a local parabola of one of six widths, or a power law with offset for each
    curve: whichever has the lowest leave-one-out error over all curves.

    Args:
      sizes: [P] parameters; points of equal size form one curve.
      budgets: [P] training FLOPs spent when the loss was measured.
      losses: [P].

    Raises:
      UserError: a curve has too few points, or fewer than two crossovers are inside the curves.
    """
    runs = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    runs = [rows[np.argsort(budgets[rows], kind="stable")] for rows in runs]
    short = [rows for rows in runs if len(np.unique(budgets[rows])) < _FEWEST_POINTS]
    if short:
        raise UserError(
            f"{len(short)} of {len(runs)} sizes have fewer than {_FEWEST_POINTS} points, such as "
            f"{sizes[short[0][0]]:.4g}; an envelope needs the loss along training, several rows "
            "for each size"
        )
    if len(runs) < 3:
        raise UserError(
            f"an envelope of {len(runs)} sizes has fewer than two crossovers; give at least 3 sizes"
        )
    logs = [(np.log(budgets[rows]), np.log(losses[rows])) for rows in runs]
    grid = np.linspace(min(x[0] for x, _ in logs), max(x[-1] for x, _ in logs), _GRID)
    curves, ahead = [], np.full((len(runs), _GRID), np.inf)
    for row, rows, smooth, (x, _) in zip(ahead, runs, _smoothers(logs), logs, strict=True):
        seen = (grid >= x[0]) & (grid <= x[-1])
        row[seen] = smooth(grid[seen])
        size = float(sizes[rows[0]])
        curves.append(SmoothedCurve(size, budgets[rows], losses[rows], np.exp(smooth(x))))
    return _crossovers(curves, grid, ahead)


def _crossovers(curves: list[SmoothedCurve], grid: np.ndarray, ahead: np.ndarray) -> EnvelopeFit:
    winners = ahead.argmin(axis=0)
    # Noise makes the lead change several times. The crossovers follow from the share of budgets
    # that each size leads, in the order of sizes.
    leaders, counts = np.unique(winners, return_counts=True)
    found, edges = [], []
    for smaller, larger, count in zip(leaders, leaders[1:], np.cumsum(counts), strict=False):
        at = grid[min(count, _GRID - 1)]
        both = np.exp(at) > curves[larger].budgets[0] and np.exp(at) < curves[smaller].budgets[-1]
        if not both:
            edges.append(float(np.exp(at)))
            continue
        loss = 0.5 * (np.interp(at, grid, ahead[smaller]) + np.interp(at, grid, ahead[larger]))
        found.append((at, 0.5 * np.log(curves[smaller].size * curves[larger].size), loss))
    if len(found) < 2:
        raise UserError(
            f"{len(found)} sizes overtake another inside both curves ({len(edges)} where a curve "
            "begins or ends); train the sizes at overlapping budgets, or give more of them"
        )
    c, n, loss = np.exp(np.array(found)).T
    return EnvelopeFit(curves, c, n, loss, edges, fit_line(c, n), fit_line(c, c / (6 * n)))


_Smooth = Callable[[np.ndarray], np.ndarray]


def _smoothers(logs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[_Smooth]:
    """Returns a function of log C for each curve: kernels of one width, or power laws."""
    errors = {w: sum(_left_out(_kernel(x, x, w), y) for x, y in logs) for w in _BANDWIDTHS}
    laws = [_law(x, y) for x, y in logs] if min(len(x) for x, _ in logs) > _LAW_SIZE else []
    spared = [len(x) / (len(x) - _LAW_SIZE) for x, _ in logs] if laws else []
    law_error = sum(
        float(np.sum(((y - law(x)) * factor) ** 2))
        for law, factor, (x, y) in zip(laws, spared, logs, strict=False)
    )
    width = min(errors, key=errors.__getitem__)
    if laws and law_error < errors[width]:
        return laws
    return [partial(_parabolas, x, y, width) for x, y in logs]


def _parabolas(x: np.ndarray, y: np.ndarray, width: float, at: np.ndarray) -> np.ndarray:
    return _kernel(x, at, width) @ y


def _law(x: np.ndarray, y: np.ndarray) -> _Smooth:
    """Returns `E + A / C^alpha`, fitted by least squares of log L."""
    fitted = fit(power_offset("c"), [np.exp(x)], np.exp(y), delta=_LEAST_SQUARES)
    return lambda at: log_loss(fitted.law, fitted.theta, at[None] - fitted.centre)


def _kernel(x: np.ndarray, at: np.ndarray, width: float) -> np.ndarray:
    """Returns the matrix [A, T] from values at x [T] to local parabolas at `at` [A]."""
    distance = x[None] - at[:, None]
    # The width reaches at least four neighbours.
    reach = np.sort(np.abs(distance), axis=1)[:, min(_FEWEST_POINTS, len(x)) - 1]
    scaled = distance / np.maximum(width, reach)[:, None]
    weights = np.exp(-0.5 * scaled**2)
    powers = scaled[..., None] ** np.arange(3)  # [A, T, 3]
    gram = np.einsum("at,atj,atk->ajk", weights, powers, powers) + 1e-10 * np.eye(3)
    first = np.linalg.solve(gram, np.broadcast_to(np.eye(3)[:, :1], (len(at), 3, 1)))[..., 0]
    return np.einsum("aj,atj,at->at", first, powers, weights)


def _left_out(matrix: np.ndarray, y: np.ndarray) -> float:
    """Returns the sum of squared leave-one-out errors."""
    leverage = np.minimum(np.diag(matrix), 0.99)
    return float(np.sum(((y - matrix @ y) / (1 - leverage)) ** 2))
