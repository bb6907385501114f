"""IsoFLOP profiles: the best size at each budget (Hoffmann et al. 2022, approach 2)."""

from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.scaling_laws.log_log_regression import Line, fit_line

_WINDOW = np.log(10)  # half width of a parabola's window in log N
_FEWEST_IN_WINDOW = 5
_ROUNDS = 10  # of moving the window
_FEWEST_SIZES = 3  # a minimum inside a profile has a neighbour on each side


class IsoflopProfile(NamedTuple):
    """The points of one budget by rising size, and the minimum of a curve through them."""

    budget: float  # training FLOPs
    sizes: np.ndarray  # [S] parameters
    losses: np.ndarray  # [S]
    size: float  # at the minimum, as are tokens and loss
    tokens: float
    loss: float
    at_edge: bool  # the minimum is at the smallest or the largest size, and so no optimum
    curve: tuple[np.ndarray, np.ndarray]  # sizes and losses of the curve, for plots


class IsoflopFit(NamedTuple):
    """Power laws of the optimal size and tokens over budgets."""

    minimum: str
    profiles: list[IsoflopProfile]
    size: Line
    tokens: Line

    @property
    def edges(self) -> list[float]:
        """Returns the budgets left out because their minimum lies at an edge."""
        return [profile.budget for profile in self.profiles if profile.at_edge]


def fit_isoflop(
    sizes: np.ndarray,
    tokens: np.ndarray,
    budgets: np.ndarray,
    losses: np.ndarray,
    minimum: str = "akima",
) -> IsoflopFit:
    """Finds the minima of all profiles, and fits lines to their logs over log C.

    The lines leave out budgets whose minimum lies at an edge; `profiles` keeps them.

    Args:
      sizes: [P] parameters.
      tokens: [P].
      budgets: [P] training FLOPs; points of equal value form one profile.
      losses: [P].
      minimum: `akima` takes the minimum of the Akima interpolant of log L over log N (Porian et
        al. 2024), `parabola` that of a fitted parabola (Hoffmann et al. 2022).

    Raises:
      UserError: a budget has fewer than three sizes, or fewer than two minima lie inside.
    """
    if minimum not in ("akima", "parabola"):
        raise UserError(f"minimum {minimum!r}; expected akima or parabola")
    groups = {budget: np.flatnonzero(budgets == budget) for budget in np.unique(budgets)}
    thin = {b: len(np.unique(sizes[rows])) for b, rows in groups.items()}
    thin = {b: count for b, count in thin.items() if count < _FEWEST_SIZES}
    if thin:
        listed = ", ".join(f"{b:.4g} has {count}" for b, count in list(thin.items())[:5])
        raise UserError(
            f"{len(thin)} of {len(groups)} budgets have fewer than {_FEWEST_SIZES} sizes ({listed}"
            f"{', ...' if len(thin) > 5 else ''}); a profile needs several sizes at one budget: "
            "leave these rows out, or round the budgets that belong together"
        )
    profiles = [
        _profile(budget, sizes[rows], tokens[rows], losses[rows], minimum)
        for budget, rows in groups.items()
    ]
    inside = [profile for profile in profiles if not profile.at_edge]
    if len(inside) < 2:
        edges = ", ".join(f"{p.budget:.4g}" for p in profiles if p.at_edge)
        raise UserError(
            f"only {len(inside)} of {len(profiles)} budgets have a minimum inside their profile "
            f"(at the edge: {edges}); add smaller or larger sizes there"
        )
    c, n, d = np.array([(p.budget, p.size, p.tokens) for p in inside]).T
    return IsoflopFit(minimum, profiles, fit_line(c, n), fit_line(c, d))


def _profile(
    budget: float, sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray, minimum: str
) -> IsoflopProfile:
    distinct, where = np.unique(sizes, return_inverse=True)
    counts = np.bincount(where)
    # Runs of one size count as one point, their mean.
    x, y = np.log(distinct), np.bincount(where, np.log(losses)) / counts
    log_tokens = np.bincount(where, np.log(tokens)) / counts
    dense = np.linspace(x[0], x[-1], 200)
    if minimum == "akima":
        curve, best, at_edge = _akima(x, y)
    else:
        curve, best, at_edge = _parabola(x, y)
    return IsoflopProfile(
        float(budget),
        distinct,
        np.exp(y),
        float(np.exp(best)),
        float(np.exp(np.interp(best, x, log_tokens))),
        float(np.exp(curve(best))),
        at_edge,
        (np.exp(dense), np.exp(curve(dense))),
    )


def _akima(x: np.ndarray, y: np.ndarray) -> tuple[Any, float, bool]:
    """Returns a curve through the points, its exact minimum, and whether that is at an edge."""
    from scipy.interpolate import Akima1DInterpolator

    curve = Akima1DInterpolator(x, y)
    flat = curve.derivative().roots(extrapolate=False)
    candidates = np.concatenate([x, flat[np.isfinite(flat)]])
    best = float(candidates[np.argmin(curve(candidates))])
    return curve, best, best in (x[0], x[-1])


def _parabola(x: np.ndarray, y: np.ndarray) -> tuple[Any, float, bool]:
    """Returns a parabola, its minimum, and whether that is at an edge.

    It is fitted by least squares in a window symmetric about the minimum: profiles are steeper on
    one side, and distant points on one side only would shift the minimum. A parabola that opens
    downward has its minimum at an edge.
    """
    inside = np.ones(len(x), bool)
    for _ in range(_ROUNDS):
        curve = np.polynomial.Polynomial.fit(x[inside], y[inside], 2)
        _, slope, bend = curve.convert().coef.tolist()
        best = -slope / (2 * bend) if bend > 0 else x[np.argmin(y)]
        if not x[0] < best < x[-1]:
            return curve, float(np.clip(best, x[0], x[-1])), True
        distance = np.abs(x - best)
        needed = np.sort(distance)[min(_FEWEST_IN_WINDOW, len(x)) - 1]
        reach = max(min(_WINDOW, best - x[0], x[-1] - best), needed)
        before, inside = inside, distance <= reach * (1 + 1e-9)
        if (inside == before).all():
            break
    return curve, float(best), False
