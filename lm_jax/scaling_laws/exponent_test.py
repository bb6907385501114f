"""Tests whether architectures share the exponents of a law and differ only in its scales."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.plurals import counted
from lm_jax.scaling_laws.huber_fit import DELTA, Fit, fit, minimise
from lm_jax.scaling_laws.laws import Law, by_group
from lm_jax.scaling_laws.uncertainty import residual_bootstrap


class Comparison(NamedTuple):
    """A law with shared exponents, and one with exponents for each group."""

    shared: Fit  # shared exponents and E; scales for each group
    separate: Fit  # shared E; scales and exponents for each group
    drop: float  # of the objective from shared to separate, as a share of the former
    p_value: float  # share of data sets drawn under the shared law with such a drop


def compare_exponents(
    law: Law,
    variables: Sequence[np.ndarray],
    losses: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    resamples: int = 1_000,
    delta: float = DELTA,
    seed: int = 0,
) -> Comparison:
    """Fits both laws and tests whether the exponents differ.

    The p-value is bootstrapped under the null hypothesis: residuals of the shared law are resampled
    around it, and both laws are fitted again (Davison & Hinkley 1997, section 4.4).

    Args:
      law: a law of V variables.
      variables: V arrays [P].
      losses: [P].
      groups: [P], the name of each point's architecture.
      resamples: the number of data sets drawn.
      delta: where Huber's loss turns linear.
      seed: the seed of the draws.

    Raises:
      UserError: there is only one group, or a group has too few points.
    """
    names, numbers = np.unique(np.asarray(groups, str), return_inverse=True)
    if len(names) < 2:
        raise UserError(f"there is only one group, {str(names[0])!r}; give at least two to compare")
    own = len(law.parameters) - ("E" in law.parameters)
    for name, count in zip(names, np.bincount(numbers), strict=True):
        if count <= own:
            raise UserError(
                f"group {str(name)!r} has {counted(count, 'point')}, too few for its {own} own "
                f"parameters of {law.formula}; give at least {own + 1}"
            )
    common = tuple(n for n in law.parameters if n == "E")
    exponents = tuple(n for n, log in zip(law.parameters, law.is_log, strict=True) if not log)
    data = (*variables, numbers.astype(float))
    shared = fit(by_group(law, tuple(names), common + exponents), data, losses, delta)
    larger = by_group(law, tuple(names), common)
    wider = _widened(shared, larger)
    starts = np.concatenate([wider[None], larger.starts(shared.x, shared.log_losses)])
    separate = fit(larger, data, losses, delta, starts)

    drawn = residual_bootstrap(shared, resamples, seed)
    options: dict[str, Any] = {"delta": delta, "steps": 200}
    small, under = minimise(
        shared.law, np.tile(shared.theta, (resamples, 1)), shared.x, drawn, **options
    )
    widened = _widened(shared._replace(theta=small), larger)
    _, above = minimise(larger, widened, shared.x, drawn, **options)
    # Data that the shared law fits exactly show no drop.
    drop = 1 - separate.objective / shared.objective if shared.objective > 0 else 0.0
    drops = 1 - np.divide(above, under, out=np.ones(resamples), where=under > 0)
    p_value = (1 + np.sum(drops >= drop)) / (1 + resamples)
    return Comparison(shared, separate, float(drop), float(p_value))


def _widened(shared: Fit, larger: Law) -> np.ndarray:
    """Embeds the shared fit in the larger law's parameters."""
    names = list(shared.law.parameters)
    slots = [
        names.index(n) if n in names else names.index(n.split("[")[0]) for n in larger.parameters
    ]
    return shared.theta[..., slots]
