"""Studies of scaling laws: the fit with its intervals, quality and predictions, as JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.scaling_laws import compute_optimal
from lm_jax.scaling_laws.envelope import EnvelopeFit, fit_envelope
from lm_jax.scaling_laws.exponent_test import compare_exponents
from lm_jax.scaling_laws.huber_fit import DELTA, Fit, fit
from lm_jax.scaling_laws.isoflop import IsoflopFit, fit_isoflop
from lm_jax.scaling_laws.laws import Law, power, power_offset
from lm_jax.scaling_laws.log_log_regression import Line
from lm_jax.scaling_laws.observations import Points
from lm_jax.scaling_laws.uncertainty import ParameterProfile, Resamples, bootstrap, profile, quality

_LAWS_OF_N_AND_D = ("parametric", "kaplan")
_PROFILE_SPAN = 4.0  # standard errors


class Study(NamedTuple):
    """The results of a study, and what its plots need."""

    results: dict[str, Any]
    points: Points
    fit: Fit | IsoflopFit | EnvelopeFit
    resamples: Resamples | None = None
    profiles: dict[str, ParameterProfile] | None = None
    by_group: Resamples | None = None  # the law with exponents for each group


def study_law(
    points: Points,
    law: Law,
    *,
    budgets: Sequence[float] = (),
    resamples: int = 1_000,
    delta: float = DELTA,
    seed: int = 0,
) -> Study:
    """Fits a law to single points; returns its fit, intervals, profiles, quality and predictions.

    Args:
      points: the points.
      law: the law.
      budgets: training FLOPs to predict for.
      resamples: the number of bootstrap resamples.
      delta: where Huber's loss on log L turns linear.
      seed: the seed of the bootstrap.

    Raises:
      UserError: as `fit` does, or budgets are given for a law without training FLOPs.
    """
    fitted = fit(law, [points[name] for name in law.variables], points["loss"], delta)
    refits = bootstrap(fitted, resamples, seed)
    results: dict[str, Any] = {"law": law.name, "formula": law.formula}
    results |= fitted.parameters
    results |= {"objective": fitted.objective, "num_points": len(points)}
    intervals = refits.intervals()
    if law.name in _LAWS_OF_N_AND_D:
        names = ("exponent_n", "exponent_d")
        values = compute_optimal.exponents(law.name, fitted.parameters)
        several = compute_optimal.exponents(law.name, refits.parameters)
        results |= {n: float(v) for n, v in zip(names, values, strict=True)}
        intervals |= {n: refits.interval(v) for n, v in zip(names, several, strict=True)}
    if law.name == "power":
        scale = _scale(fitted.parameters)
        results["scale"] = float(scale)
        intervals["scale"] = refits.interval(_scale(refits.parameters))
    results["intervals"] = intervals
    profiles = _profiles(refits)
    results["profile_intervals"] = {name: found.interval for name, found in profiles.items()}
    order = points.columns.get("c", points[law.variables[-1]])
    found = quality(fitted, order)
    worst = int(points.lines[np.argmax(np.abs(fitted.residuals))])
    results["quality"] = found._asdict() | {"largest_residual_line": worst}
    if budgets:
        results["predictions"] = [_prediction(refits, budget) for budget in budgets]
    return Study(results, points, fitted, refits, profiles)


def _profiles(refits: Resamples) -> dict[str, ParameterProfile]:
    """Returns the profile of each parameter, 4 standard errors to both sides."""
    law, fitted = refits.fit.law, refits.fit
    profiles = {}
    for k, name in enumerate(law.parameters):
        natural = law.natural(refits.thetas, fitted.centre)[:, k]
        span = _PROFILE_SPAN / 2 * np.subtract(*np.percentile(natural, [84.1, 15.9]))
        profiles[name] = profile(fitted, name, max(float(span), 1e-9))
    return profiles


def _scale(parameters: dict[str, Any]) -> Any:
    """Returns X_c of `(X_c / X)^alpha`."""
    with np.errstate(over="ignore"):
        return np.exp(np.log(parameters["A"]) / parameters["alpha"])


def _prediction(refits: Resamples, budget: float) -> dict[str, Any]:
    law, fitted = refits.fit.law, refits.fit
    if law.name in _LAWS_OF_N_AND_D:
        best = compute_optimal.optimum(law.name, fitted.parameters, budget)
        several = compute_optimal.optimum(law.name, refits.parameters, budget)
        outcome: dict[str, Any] = {
            "budget": budget,
            "n": float(best.parameters),
            "n_interval": refits.interval(several.parameters),
            "d": float(best.tokens),
            "d_interval": refits.interval(several.tokens),
        }
        loss, losses = best.loss, several.loss
    elif law.variables == ("c",):
        outcome = {"budget": budget}
        loss, losses = (_at(p, budget) for p in (fitted.parameters, refits.parameters))
    else:
        raise UserError(
            f"--budget asks for a loss by training FLOPs, but {law.formula} has no FLOPs; "
            "take --law=parametric, kaplan, isoflop or envelope, or --variable=c"
        )
    outcome |= {"loss": float(loss), "loss_interval": refits.interval(losses)}
    # One more run scatters about the law as the points do.
    drawn = np.random.default_rng(0).choice(fitted.residuals, len(losses))
    outcome["run_interval"] = refits.interval(losses * np.exp(drawn))
    return outcome


def _at(parameters: dict[str, Any], x: float) -> Any:
    return parameters.get("E", 0.0) + parameters["A"] * x ** -np.asarray(parameters["alpha"])


def with_groups(
    study: Study, law: Law, *, resamples: int = 1_000, delta: float = DELTA, seed: int = 0
) -> Study:
    """Returns the study with a test of whether the groups of its points share exponents.

    `results["groups"]` has both fits with intervals, the test, and the differences of exponents.

    Raises:
      UserError: as `compare_exponents` does.
    """
    points = study.points
    assert points.groups is not None
    variables = [points[name] for name in law.variables]
    found = compare_exponents(law, variables, points["loss"], points.groups, resamples, delta, seed)
    shared, separate = (
        bootstrap(fitted, resamples, seed, strata=fitted.x[-1])
        for fitted in (found.shared, found.separate)
    )
    groups = {
        "shared_exponents": _parameters_with_intervals(shared),
        "own_exponents": _parameters_with_intervals(separate),
        "drop": found.drop,
        "p_value": found.p_value,
        "differences": _differences(separate),
    }
    return study._replace(results=study.results | {"groups": groups}, by_group=separate)


def _parameters_with_intervals(refits: Resamples) -> dict[str, Any]:
    fitted = refits.fit
    return fitted.parameters | {"objective": fitted.objective, "intervals": refits.intervals()}


def _differences(refits: Resamples) -> dict[str, list[float]]:
    """Returns the 95% bounds of the differences between exponents of two groups."""
    law, several = refits.fit.law, refits.parameters
    names = [n for n, log in zip(law.parameters, law.is_log, strict=True) if not log]
    return {
        f"{one} - {other}": refits.interval(several[one] - several[other])
        for i, one in enumerate(names)
        for other in names[i + 1 :]
        if one.split("[")[0] == other.split("[")[0]
    }


def study_isoflop(
    points: Points, *, minimum: str = "akima", budgets: Sequence[float] = ()
) -> Study:
    """Fits IsoFLOP profiles and the power laws of their minima.

    The results also have the exponent by the other kind of minimum.

    Args:
      points: the points.
      minimum: the kind of minimum, as in `fit_isoflop`.
      budgets: training FLOPs to predict for.

    Raises:
      UserError: as `fit_isoflop` does.
    """
    n, d, c, losses = (points[name] for name in ("n", "d", "c", "loss"))
    fitted = fit_isoflop(n, d, c, losses, minimum)
    results: dict[str, Any] = {
        "law": "isoflop",
        "formula": "N* = coefficient_n C^exponent_n",
        "minimum": minimum,
    }
    inside = [(p.budget, p.loss) for p in fitted.profiles if not p.at_edge]
    loss = _loss_law(*np.array(inside).T)
    results |= _lines(fitted.size, fitted.tokens, loss, len(points), budgets)
    results["minima"] = [
        {"budget": p.budget, "n": p.size, "d": p.tokens, "loss": p.loss, "at_edge": p.at_edge}
        for p in fitted.profiles
    ]
    results["edges"] = fitted.edges
    other = "parabola" if minimum == "akima" else "akima"
    try:
        results[f"exponent_n_by_{other}"] = fit_isoflop(n, d, c, losses, other).size.exponent
    except UserError:  # its minima lie at edges
        results[f"exponent_n_by_{other}"] = None
    return Study(results, points, fitted, loss)


def study_envelope(points: Points, *, budgets: Sequence[float] = ()) -> Study:
    """Fits the crossovers of training curves and their power laws.

    Args:
      points: the points along training.
      budgets: training FLOPs to predict for.

    Raises:
      UserError: as `fit_envelope` does.
    """
    fitted = fit_envelope(points["n"], points["c"], points["loss"])
    results: dict[str, Any] = {"law": "envelope", "formula": "N* = coefficient_n C^exponent_n"}
    loss = _loss_law(fitted.budgets, fitted.losses)
    results |= _lines(fitted.size, fitted.tokens, loss, len(points), budgets)
    found = zip(fitted.budgets, fitted.sizes, fitted.losses, strict=True)
    results["crossovers"] = [dict(zip(("budget", "n", "loss"), row, strict=True)) for row in found]
    results["edges"] = fitted.edges
    return Study(results, points, fitted, loss)


def _loss_law(budgets: np.ndarray, losses: np.ndarray) -> Resamples | None:
    """Returns the loss at the optima as a power law of C, with an offset from 5 optima on."""
    if len(losses) < 3:
        return None
    law = power_offset("c") if len(losses) > 4 else power("c")
    return bootstrap(fit(law, [budgets], losses))


def _lines(
    size: Line, tokens: Line, loss: Resamples | None, num_points: int, budgets: Sequence[float]
) -> dict[str, Any]:
    lines = {"n": size, "d": tokens}
    results: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for name, line in lines.items():
        results |= {f"exponent_{name}": line.exponent, f"coefficient_{name}": line.coefficient}
        intervals[f"exponent_{name}"] = line.exponent_interval()
        intervals[f"coefficient_{name}"] = line.coefficient_interval()
    results["objective"] = size.deviation**2 * max(size.points - 2, 0)
    results |= {"num_points": num_points, "num_optima": size.points, "intervals": intervals}
    results["quality"] = {"rms_residual_n": size.deviation}
    if loss:
        about = {"formula": loss.fit.law.formula, "intervals": loss.intervals()}
        results["loss_law"] = {**loss.fit.parameters, **about}
    if budgets:
        results["predictions"] = [_line_prediction(lines, loss, budget) for budget in budgets]
    return results


def _line_prediction(
    lines: dict[str, Line], loss: Resamples | None, budget: float
) -> dict[str, Any]:
    outcome: dict[str, Any] = {"budget": budget}
    if loss:
        outcome |= _prediction(loss, budget)
    for name, line in lines.items():
        outcome[name], outcome[f"{name}_interval"] = line.predict(budget)
    return outcome
