"""Seconds of the parametric fit and its bootstrap, compared with scipy's L-BFGS-B in a loop.

  python -m benchmarks.scaling_law_fits --output=benchmarks/results/scaling_law_fits.json

240 points at the scale of Hoffmann et al. 2022 with 1.5% noise. The fit is compared with the best
of 4,500 starts, each run to convergence by the same method, and with scipy started from the fit.
The seconds of scipy for all refits are extrapolated from `--scipy_refits` refits.
"""

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from lm_jax.scaling_laws.huber_fit import Fit, fit, minimise
from lm_jax.scaling_laws.laws import PARAMETRIC
from lm_jax.scaling_laws.uncertainty import bootstrap

OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
RESAMPLES = flags.DEFINE_integer("resamples", 4_000, "Bootstrap refits.", lower_bound=128)
SCIPY_REFITS = flags.DEFINE_integer("scipy_refits", 40, "Refits that scipy is timed on.")
GRID = flags.DEFINE_bool("grid", True, "Run the 4,500 starts.")


def points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns parameters, tokens and losses [240] by the law of Besiroglu et al. 2024."""
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(4e7), np.log(1.6e10), 240))
    d = np.exp(rng.uniform(np.log(6e18), np.log(3e21), 240)) / (6 * n)
    loss = 1.82 + 482 / n**0.348 + 2085 / d**0.366
    return n, d, loss * np.exp(0.015 * rng.standard_normal(240))


def grid(centre: np.ndarray) -> np.ndarray:
    """Returns the 4,500 starts of Hoffmann et al. 2022 (appendix D.3) in the law's coordinates."""
    halves = np.arange(0, 2.5, 0.5)
    fives = np.arange(0, 30, 5)
    values = product(np.arange(-1, 1.5, 0.5), fives, fives, halves, halves)
    return np.array([[e, a - x * centre[0], b - y * centre[1], x, y] for e, a, b, x, y in values])


def scipy_fit(fitted: Fit, weights: np.ndarray) -> float:
    """Returns the objective that scipy reaches when started from the optimum of all points."""
    from scipy.optimize import minimize
    from scipy.special import huber, logsumexp, softmax

    x, y = fitted.x, fitted.log_losses

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        e, a, b, alpha, beta = theta
        terms = np.stack([np.full(len(y), e), a - alpha * x[0], b - beta * x[1]])
        r = logsumexp(terms, axis=0) - y
        shares = softmax(terms, axis=0) * (weights * np.clip(r, -fitted.delta, fitted.delta))
        slopes = [*shares.sum(axis=1), -shares[1] @ x[0], -shares[2] @ x[1]]
        # Scaled by 1e3: its tolerance is absolute in the gradient.
        return 1e3 * float(weights @ huber(fitted.delta, r)), 1e3 * np.array(slopes)

    options = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 5_000, "maxfun": 20_000}
    found = minimize(objective, fitted.theta, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun) / 1e3


def main(_: list[str]) -> None:
    """Prints the results as one line of JSON."""
    from lm_jax.telemetry.environment import environment
    from lm_jax.telemetry.json_files import write_json

    n, d, losses = points()
    results: dict[str, Any] = {"environment": environment(), "points": len(n)}

    def timed(name: str, work: Any) -> Any:
        start, cpu = time.perf_counter(), time.process_time()
        outcome = work()
        results[f"{name}_seconds"] = time.perf_counter() - start
        results[f"{name}_cpu_seconds"] = time.process_time() - cpu
        return outcome

    fitted = timed("first_fit", lambda: fit(PARAMETRIC, (n, d), losses))  # with compilation
    fitted = timed("fit", lambda: fit(PARAMETRIC, (n, d), losses))
    results["objective"] = fitted.objective
    timed("bootstrap", lambda: bootstrap(fitted, RESAMPLES.value))
    results["refits"] = RESAMPLES.value
    weights = np.random.default_rng(0).multinomial(240, np.full(240, 1 / 240), SCIPY_REFITS.value)
    timed("scipy", lambda: [scipy_fit(fitted, w.astype(float)) for w in weights])
    results["scipy_seconds_for_all"] = (
        results["scipy_seconds"] / SCIPY_REFITS.value * RESAMPLES.value
    )
    if GRID.value:
        starts = grid(fitted.centre)
        _, ends = timed(
            "grid", lambda: minimise(PARAMETRIC, starts, fitted.x, fitted.log_losses, steps=400)
        )
        results["grid_starts"] = len(starts)
        results["grid_best_objective"] = float(ends.min())
        results["grid_share_at_optimum"] = float(np.mean(ends < ends.min() * (1 + 1e-6)))
        results["fit_above_grid"] = fitted.objective / float(ends.min()) - 1
    results["scipy_from_the_fit"] = scipy_fit(fitted, np.ones(240)) / fitted.objective - 1
    if OUTPUT.value:
        write_json(Path(OUTPUT.value), results)
    print(json.dumps(results))


if __name__ == "__main__":
    app.run(main)
