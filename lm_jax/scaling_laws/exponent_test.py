"""One law for several architectures: do they share exponents, and differ by factors only?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.scaling_laws.huber_fit import DELTA, Fit, fit, minimise
from lm_jax.scaling_laws.laws import Law, by_group
from lm_jax.scaling_laws.uncertainty import residual_bootstrap


class Comparison(NamedTuple):
    """A law with common exponents beside one with an exponent for each group."""

    shared: Fit  # exponents and E common, scales of each group
    separate: Fit  # E common
    drop: float  # of the objective, that exponents of their own bring, as a share of it
    p_value: float  # how often data of the shared law show such a drop


def compare_exponents(
    law: Law,
    variables: Sequence[np.ndarray],
    losses: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    resamples: int = 1_000,
    delta: float = DELTA,
    seed: int = 0,
) -> Comparison:
    """Fits both laws, and tests whether the exponents differ.

    The p-value is bootstrapped under the hypothesis: residuals of the shared law are drawn anew
    around it, and both laws are fitted again (Davison & Hinkley 1997, section 4.4).

    Args:
      law: of V variables.
      variables: V arrays [P].
      losses: [P].
      groups: [P], the name of each point's architecture.
      resamples: how many data sets are drawn.
      delta: where Huber's loss turns linear.
      seed: of the draws.

    Raises:
      UserError: there is one group only, or a group has too few points.
    """
    names, numbers = np.unique(np.asarray(groups, str), return_inverse=True)
    if len(names) < 2:
        raise UserError(f"one group, {names[0]!r}, has nothing to compare with; give at least two")
    own = len(law.parameters) - ("E" in law.parameters)
    for name, count in zip(names, np.bincount(numbers), strict=True):
        if count <= own:
            raise UserError(
                f"group {name!r} has {count} points, too few for the {own} parameters of its own "
                f"of {law.formula}"
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
    drop = 1 - separate.objective / shared.objective
    # Data that the shared law fits without a rest show no drop.
    drops = 1 - np.divide(above, under, out=np.ones(resamples), where=under > 0)
    p_value = (1 + np.sum(drops >= drop)) / (1 + resamples)
    return Comparison(shared, separate, float(drop), float(p_value))


def _widened(shared: Fit, larger: Law) -> np.ndarray:
    """Parameters of the law with more of them that say the same as those of the shared one."""
    names = list(shared.law.parameters)
    slots = [
        names.index(n) if n in names else names.index(n.split("[")[0]) for n in larger.parameters
    ]
    return shared.theta[..., slots]
