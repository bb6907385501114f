"""Coverage of the 95% intervals of fitted scaling laws on simulated data.

  python -m benchmarks.scaling_law_coverage --output=benchmarks/results/scaling_law_coverage.json

Each trial draws 200 points of a known law with 1% noise, fits the law, and checks whether the true
parameters lie within the reported bounds. With 100 trials a share of 0.95 has a standard error of
0.022.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from lm_jax.scaling_laws import laws
from lm_jax.scaling_laws.envelope import fit_envelope
from lm_jax.scaling_laws.huber_fit import fit
from lm_jax.scaling_laws.isoflop import fit_isoflop
from lm_jax.scaling_laws.uncertainty import bootstrap

TRIALS = flags.DEFINE_integer("trials", 100, "Data sets per law.", lower_bound=2)
RESAMPLES = flags.DEFINE_integer(
    "resamples", 1_000, "Bootstrap resamples per fit.", lower_bound=100
)
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

NOISE = 0.01
POINTS = 200
TRUTH = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}
EXPONENT = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
KAPLAN = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_n": 0.076, "alpha_d": 0.095}
LEARNING = {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_n": 0.077, "alpha_s": 0.76}


class Case(NamedTuple):
    """A law, the ranges of its variables, its loss function and its true parameters."""

    law: laws.Law
    ranges: list[tuple[float, float]]
    loss: Callable[..., np.ndarray]
    truth: dict[str, float]


def chinchilla(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Returns the loss by the law of Besiroglu et al. 2024."""
    return TRUTH["E"] + TRUTH["A"] / n ** TRUTH["alpha"] + TRUTH["B"] / d ** TRUTH["beta"]


def optimal_size(c: np.ndarray) -> np.ndarray:
    """Returns the optimal parameters for `c` FLOPs (Hoffmann et al. 2022, equation 4)."""
    alpha, beta = TRUTH["alpha"], TRUTH["beta"]
    g = (alpha * TRUTH["A"] / (beta * TRUTH["B"])) ** (1 / (alpha + beta))
    return g * (c / 6) ** EXPONENT


CASES = {
    "parametric": Case(laws.PARAMETRIC, [(1e7, 1e10), (1e8, 1e11)], chinchilla, TRUTH),
    "kaplan": Case(
        laws.KAPLAN,
        [(1e6, 1e9), (1e7, 1e10)],
        lambda n, d: ((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095,
        KAPLAN,
    ),
    "learning_curve": Case(
        laws.LEARNING_CURVE,
        [(1e6, 1e9), (1e3, 1e6)],
        lambda n, s: (6.5e13 / n) ** 0.077 + (2.1e3 / s) ** 0.76,
        LEARNING,
    ),
    "power": Case(
        laws.power("n"),
        [(1e6, 1e9)],
        lambda n: 11.46 / n**0.076,
        {"A": 11.46, "alpha": 0.076},
    ),
    "power_offset": Case(
        laws.power_offset("n"),
        [(1e7, 1e10)],
        lambda n: 1.82 + 482 / n**0.348,
        {"E": 1.82, "A": 482.0, "alpha": 0.348},
    ),
}


def bounds_of_law(case: Case, rng: np.random.Generator, resamples: int) -> dict[str, Any]:
    """Returns the reported bounds for one simulated data set."""
    values = [np.exp(rng.uniform(np.log(low), np.log(high), POINTS)) for low, high in case.ranges]
    fitted = fit(case.law, values, noisy(case.loss(*values), rng))
    return bootstrap(fitted, resamples, seed=int(rng.integers(1 << 30))).intervals()


def noisy(losses: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns losses with relative Gaussian noise."""
    return losses * np.exp(NOISE * rng.standard_normal(losses.shape))


def bounds_of_isoflop(minimum: str, rng: np.random.Generator) -> dict[str, Any]:
    """Returns bounds from ten budgets of twenty sizes, within a factor of 30 of the optimum."""
    c = np.repeat(np.geomspace(1e18, 1e21, 10), 20)
    n = optimal_size(c) * np.tile(np.geomspace(1 / 30, 30, 20), 10)
    d = c / (6 * n)
    fitted = fit_isoflop(n, d, c, noisy(chinchilla(n, d), rng), minimum)
    return {"exponent_n": fitted.size.exponent_interval()}


def bounds_of_envelope(rng: np.random.Generator) -> dict[str, Any]:
    """Returns bounds from ten sizes with twenty points along training each."""
    n = np.repeat(np.geomspace(1e8, 1.6e10, 10), 20)
    d = np.tile(np.geomspace(3e8, 1.6e11, 20), 10)
    fitted = fit_envelope(n, 6 * n * d, noisy(chinchilla(n, d), rng))
    return {"exponent_n": fitted.size.exponent_interval()}


def coverage(
    bounds: Callable[[np.random.Generator], dict[str, Any]], truth: dict[str, float], trials: int
) -> dict[str, float]:
    """Returns the share of trials whose bounds contain the true value, by parameter."""
    hits: dict[str, list[bool]] = {name: [] for name in truth}
    for trial in range(trials):
        found = bounds(np.random.default_rng(trial))
        for name, value in truth.items():
            hits[name].append(found[name][0] <= value <= found[name][1])
    return {name: float(np.mean(values)) for name, values in hits.items()}


def main(_: list[str]) -> None:
    """Prints a line per law, then all results as one line of JSON."""
    from lm_jax.telemetry.environment import environment
    from lm_jax.telemetry.json_files import write_json

    table: dict[str, dict[str, float]] = {}
    trials, resamples = TRIALS.value, RESAMPLES.value

    def add(name: str, bounds: Callable[..., dict[str, Any]], truth: dict[str, float]) -> None:
        table[name] = coverage(bounds, truth, trials)
        print(name, table[name], flush=True)

    exponent = {"exponent_n": EXPONENT}
    for minimum in ("akima", "parabola"):
        add(f"isoflop, {minimum}", lambda rng, m=minimum: bounds_of_isoflop(m, rng), exponent)
    add("envelope", bounds_of_envelope, exponent)
    for name, case in CASES.items():
        add(name, lambda rng, case=case: bounds_of_law(case, rng, resamples), case.truth)
    setting = {"trials": trials, "resamples": resamples, "points": POINTS, "noise": NOISE}
    results = {"environment": environment(), "setting": setting, "coverage": table}
    if OUTPUT.value:
        write_json(Path(OUTPUT.value), results)
    print(json.dumps(results))


if __name__ == "__main__":
    app.run(main)
