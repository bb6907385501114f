"""The uncertainty of fitted laws: bootstrap, profiles, goodness of fit."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from lm_jax.errors import UserError
from lm_jax.scaling_laws.huber_fit import Fit, log_loss, minimise, named

LEVEL = 0.95
_CHECKED = 100  # resamples that are fitted from other starts too


class Resamples(NamedTuple):
    """Refits of a law on resampled data."""

    fit: Fit
    thetas: np.ndarray  # [R, K]

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Returns the published parameters [R] of every refit."""
        return named(self.fit.law, self.thetas, self.fit.centre)

    def intervals(self) -> dict[str, list[float]]:
        """Returns the 95% bounds of each parameter."""
        return {name: self.interval(values) for name, values in self.parameters.items()}

    def interval(self, values: np.ndarray) -> list[float]:
        """Returns the 95% bounds of a function [R] of the parameters.

        These are percentiles, moved outward for few points (Hesterberg 2015, "expanded
        percentile"): a resample has the variance of P instead of P - K points, and no Student tail.
        """
        points, freedom = len(self.fit.log_losses), len(self.fit.log_losses) - len(self.fit.theta)
        tail = ndtr(stdtrit(freedom, (1 - LEVEL) / 2) * np.sqrt(points / freedom))
        finite = values[~np.isnan(values)]
        return np.percentile(finite, [100 * tail, 100 * (1 - tail)]).tolist()


def bootstrap(
    fit: Fit, resamples: int = 1_000, seed: int = 0, strata: np.ndarray | None = None
) -> Resamples:
    """Refits on points drawn with replacement (Efron 1979), within each stratum where given.

    A draw is a weight for each point, so that all refits share one compiled program. Refits start
    from the optimum; some are also tried from other starts, and if these end lower, all are. A
    draw with fewer distinct points than the law has parameters is repeated.

    Args:
      fit: a law at its optimum on P points.
      resamples: the number of draws.
      seed: the seed of the draws.
      strata: [P], indices of groups whose sizes the draws keep.
    """
    rng = np.random.default_rng(seed)
    points = len(fit.log_losses)
    strata = np.zeros(points, int) if strata is None else strata
    weights = np.zeros((resamples, points))
    names = np.unique(strata)
    for stratum in names:
        members = np.flatnonzero(strata == stratum)
        shares = np.full(len(members), 1 / len(members))
        fewest = min(-(-len(fit.theta) // len(names)), len(members))  # distinct points
        rows = np.arange(resamples)
        while len(rows):
            drawn = rng.multinomial(len(members), shares, size=len(rows))
            weights[np.ix_(rows, members)] = drawn
            rows = rows[np.count_nonzero(drawn, axis=1) < fewest]
    return Resamples(fit, _refits(fit, fit.log_losses, weights))


def residual_bootstrap(fit: Fit, resamples: int = 1_000, seed: int = 0) -> np.ndarray:
    """Returns log losses [R, P]: those of the law plus resampled residuals."""
    rng = np.random.default_rng(seed)
    residuals = fit.residuals
    drawn = rng.choice(residuals, (resamples, len(residuals)))
    return fit.log_losses - residuals + drawn


def _refits(fit: Fit, log_losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    def refit(start: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        chosen = weights[rows]
        starts = np.tile(start, (len(chosen), 1))
        return minimise(fit.law, starts, fit.x, log_losses, weights=chosen, delta=fit.delta)

    thetas, objectives = refit(fit.theta, slice(None))
    grid = fit.law.starts(fit.x, fit.log_losses)
    for start in grid[[len(grid) // 3, 2 * len(grid) // 3]]:
        others, lower = refit(start, slice(_CHECKED))
        if np.mean(lower < objectives[:_CHECKED] * (1 - 1e-6)) > 0:
            others, lower = refit(start, slice(None))
            better = lower < objectives
            thetas[better], objectives[better] = others[better], lower[better]
    return thetas


class ParameterProfile(NamedTuple):
    """The best objective for each value of one parameter, with all others free."""

    values: np.ndarray  # [G]
    deviances: np.ndarray  # [G]: about chi-squared with one degree of freedom at the truth
    interval: list[float]  # where the deviance stays below 3.84


def profile(fit: Fit, name: str, span: float, count: int = 33) -> ParameterProfile:
    """Returns the profile of one parameter, from `span` below to `span` above the optimum.

    The objective is no likelihood, so its rise is scaled: twice the rise, times
    `mean(psi') / mean(psi^2)` of Huber's psi, is about chi-squared (Heritier & Ronchetti 1994).

    Args:
      fit: a law at its optimum.
      name: one of its parameters.
      span: half the width, in the parameter, or in its logarithm for a scale.
      count: the number of values.

    Raises:
      UserError: the law has no such parameter.
    """
    law, theta = fit.law, fit.theta
    if name not in law.parameters:
        raise UserError(f"{law.name} has no parameter {name}; it has {', '.join(law.parameters)}")
    k = law.parameters.index(name)
    origin = law.natural(np.zeros_like(theta), fit.centre)[k]
    direction = law.natural(np.eye(len(theta)), fit.centre)[:, k] - origin
    # All moves that keep the parameter: the null space of its direction.
    basis = np.linalg.svd(direction[None])[2][1:].T
    offsets = np.linspace(-span, span, count)
    starts = theta + offsets[:, None] * direction / (direction @ direction)
    _, objectives = minimise(law, starts, fit.x, fit.log_losses, basis=basis, delta=fit.delta)
    deviances = 2 * (objectives - fit.objective) / _dispersion(fit)
    values = theta @ direction + origin + offsets
    inside = _crossings(values, deviances)
    if law.is_log[k]:
        values, inside = np.exp(values), np.exp(inside)
    return ParameterProfile(values, deviances, inside.tolist())


_CHI_SQUARED = 3.841458820694124  # 95% quantile, one degree of freedom


def _crossings(values: np.ndarray, deviances: np.ndarray) -> np.ndarray:
    """Returns where the deviance passes the limit on both sides; infinite where it does not."""
    low, high = -np.inf, np.inf
    middle = int(np.argmin(deviances))
    roots = np.sqrt(np.maximum(deviances, 0))  # roots are nearly straight lines
    for i in range(middle, 0, -1):
        if deviances[i - 1] > _CHI_SQUARED:
            low = np.interp(_CHI_SQUARED**0.5, roots[[i, i - 1]], values[[i, i - 1]])
            break
    for i in range(middle, len(values) - 1):
        if deviances[i + 1] > _CHI_SQUARED:
            high = np.interp(_CHI_SQUARED**0.5, roots[[i, i + 1]], values[[i, i + 1]])
            break
    return np.array([low, high])


def _dispersion(fit: Fit) -> float:
    """Returns `mean(psi^2) / mean(psi')`, with a smoothed share of residuals below delta.

    With noise far above delta few residuals lie below it. The share therefore comes from a
    Gaussian density estimate, without the K residuals that a sharp minimum sets to zero.
    """
    residuals, size, lost = fit.residuals, len(fit.residuals), len(fit.theta)
    kept = residuals[np.argsort(np.abs(residuals))[lost:]]
    spread = np.subtract(*np.percentile(kept, [75, 25])) / 1.349
    width = max(0.9 * spread * size**-0.2, 1e-12)
    share = np.mean(ndtr((fit.delta - kept) / width) - ndtr((-fit.delta - kept) / width))
    psi = np.clip(residuals, -fit.delta, fit.delta)
    return float(np.sum(psi**2) / (size - lost) / share)


class Quality(NamedTuple):
    """Goodness of fit of a law."""

    r_squared: float  # in log losses
    rms_residual: float  # in log losses, about the relative error
    largest_residual: float
    left_out_points: int
    left_out_error: float | None  # rms error of log L at the largest budgets, when left out
    left_out_bias: float | None  # mean error of the same points


def quality(fit: Fit, budgets: np.ndarray) -> Quality:
    """Returns the goodness of fit, and the prediction error at the largest budgets.

    The error is that of a fit without the points of the largest budget, or without the largest
    tenth of all points if fewer than three share it; None if too few points would remain.

    Args:
      fit: a law at its optimum on P points.
      budgets: [P], what orders the points, such as training FLOPs.
    """
    residuals, y = fit.residuals, fit.log_losses
    at_top = budgets >= budgets.max() * (1 - 1e-3)
    if at_top.sum() < 3:
        at_top = budgets >= np.sort(budgets)[-max(len(budgets) // 10, 1)]
    error = bias = None
    if (~at_top).sum() > len(fit.theta):
        starts = np.concatenate([fit.theta[None], fit.law.starts(fit.x, y)])
        weights = np.tile(~at_top, (len(starts), 1)).astype(float)
        thetas, objectives = minimise(
            fit.law, starts, fit.x, y, weights=weights, delta=fit.delta, steps=100
        )
        missed = (y - log_loss(fit.law, thetas[np.argmin(objectives)], fit.x))[at_top]
        error, bias = float(np.sqrt(np.mean(missed**2))), float(np.mean(missed))
    variance = np.mean((y - y.mean()) ** 2)
    return Quality(
        float(1 - np.mean(residuals**2) / variance) if variance else 0.0,
        float(np.sqrt(np.mean(residuals**2))),
        float(residuals[np.argmax(np.abs(residuals))]),
        int(at_top.sum()),
        error,
        bias,
    )
