"""How far a fitted law can be trusted: bootstrap, profiles, and what they say of other budgets."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from lm_jax.errors import UserError
from lm_jax.scaling_laws.huber_fit import Fit, log_loss, minimise, named

LEVEL = 0.95
_CHECKED = 100  # resamples that are fitted from other starts as well


class Resamples(NamedTuple):
    """Refits of a law on data as they might have been."""

    fit: Fit
    thetas: np.ndarray  # [R, K]

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The published parameters [R] of every refit."""
        return named(self.fit.law, self.thetas, self.fit.centre)

    def intervals(self) -> dict[str, list[float]]:
        """The 95% bounds of each parameter."""
        return {name: self.interval(values) for name, values in self.parameters.items()}

    def interval(self, values: np.ndarray) -> list[float]:
        """The 95% bounds of a function [R] of the parameters.

        Percentiles, moved outward for few points (Hesterberg 2015, "expanded percentile"): a
        resample has the variance of P and not of P - K points, and no Student's tail.
        """
        points, freedom = len(self.fit.log_losses), len(self.fit.log_losses) - len(self.fit.theta)
        tail = ndtr(stdtrit(freedom, (1 - LEVEL) / 2) * np.sqrt(points / freedom))
        finite = values[~np.isnan(values)]
        return np.percentile(finite, [100 * tail, 100 * (1 - tail)]).tolist()


def bootstrap(
    fit: Fit, resamples: int = 1_000, seed: int = 0, strata: np.ndarray | None = None
) -> Resamples:
    """Refits on points drawn with replacement (Efron 1979), within each stratum where given.

    A draw is a weight for each point, so that all refits are one program. They start from the
    optimum; some are tried from other starts too, and if these end lower, all are. A draw of fewer
    points than the law has parameters would say nothing of these, and is drawn anew.

    Args:
      fit: a law at its optimum on P points.
      resamples: how many.
      seed: of the draws.
      strata: [P], numbers of groups whose sizes stay as they are.
    """
    rng = np.random.default_rng(seed)
    points = len(fit.log_losses)
    strata = np.zeros(points, int) if strata is None else strata
    weights = np.zeros((resamples, points))
    names = np.unique(strata)
    for stratum in names:
        members = np.flatnonzero(strata == stratum)
        shares = np.full(len(members), 1 / len(members))
        least = min(-(-len(fit.theta) // len(names)), len(members))  # different points
        rows = np.arange(resamples)
        while len(rows):
            drawn = rng.multinomial(len(members), shares, size=len(rows))
            weights[np.ix_(rows, members)] = drawn
            rows = rows[np.count_nonzero(drawn, axis=1) < least]
    return Resamples(fit, _refits(fit, fit.log_losses, weights))


def residual_bootstrap(fit: Fit, resamples: int = 1_000, seed: int = 0) -> np.ndarray:
    """Log losses [R, P] as the law would have them: its own, with residuals drawn anew."""
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
    """The best objective for each value of one parameter, all others free."""

    values: np.ndarray  # [G]
    deviances: np.ndarray  # [G]: about chi-squared of one degree of freedom at the truth
    interval: list[float]  # where the deviance stays below 3.84


def profile(fit: Fit, name: str, span: float, count: int = 33) -> ParameterProfile:
    """A profile "likelihood" of one parameter, from `span` below to `span` above the optimum.

    The objective is no likelihood, so its rise is scaled: twice the rise, times
    `mean(psi') / mean(psi^2)` of Huber's psi, is about chi-squared (Heritier & Ronchetti 1994).

    Args:
      fit: a law at its optimum.
      name: one of its parameters.
      span: half the width, in the parameter itself, or in its logarithm if it is a scale.
      count: how many values.

    Raises:
      UserError: the law has no such parameter.
    """
    law, theta = fit.law, fit.theta
    if name not in law.parameters:
        raise UserError(f"{law.name} has no parameter {name}; it has {', '.join(law.parameters)}")
    k = law.parameters.index(name)
    origin = law.natural(np.zeros_like(theta), fit.centre)[k]
    direction = law.natural(np.eye(len(theta)), fit.centre)[:, k] - origin
    # Every move that leaves the parameter as it is: the null space of its direction.
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


_CHI_SQUARED = 3.841458820694124  # of one degree of freedom, 95%


def _crossings(values: np.ndarray, deviances: np.ndarray) -> np.ndarray:
    """Where the deviance passes the limit on both sides; infinite where it does not."""
    low, high = -np.inf, np.inf
    middle = int(np.argmin(deviances))
    roots = np.sqrt(np.maximum(deviances, 0))  # nearly straight lines
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
    """`mean(psi^2) / mean(psi')`, with the share of residuals below delta smoothed.

    Few residuals lie below delta where noise is far above it; the share is read from a Gaussian
    density estimate instead, without the K residuals that a sharp minimum sets to zero.
    """
    residuals, size, lost = fit.residuals, len(fit.residuals), len(fit.theta)
    kept = residuals[np.argsort(np.abs(residuals))[lost:]]
    spread = np.subtract(*np.percentile(kept, [75, 25])) / 1.349
    width = max(0.9 * spread * size**-0.2, 1e-12)
    share = np.mean(ndtr((fit.delta - kept) / width) - ndtr((-fit.delta - kept) / width))
    psi = np.clip(residuals, -fit.delta, fit.delta)
    return float(np.sum(psi**2) / (size - lost) / share)


class Quality(NamedTuple):
    """How well a law describes its points."""

    r_squared: float  # of log losses
    rms_residual: float  # of log losses: about the relative error
    largest_residual: float
    left_out_points: int
    left_out_error: float | None  # rms of log losses at the largest budgets, predicted without them
    left_out_bias: float | None  # mean of the same


def quality(fit: Fit, budgets: np.ndarray) -> Quality:
    """Goodness of fit, and the error at the largest budgets when they are left out.

    Left out are the points of the largest budget, or the largest tenth of all points if fewer
    than three share it; None if too few would remain.

    Args:
      fit: a law at its optimum on P points.
      budgets: [P], what orders the points, such as their training FLOPs.
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
