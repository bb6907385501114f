"""Fits of laws to points made from known parameters."""

import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.scaling_laws import compute_optimal, laws
from lm_jax.scaling_laws.envelope import fit_envelope
from lm_jax.scaling_laws.exponent_test import compare_exponents
from lm_jax.scaling_laws.huber_fit import fit, minimise
from lm_jax.scaling_laws.isoflop import fit_isoflop
from lm_jax.scaling_laws.plots import _QUALITY
from lm_jax.scaling_laws.uncertainty import Quality, bootstrap, profile, quality

TRUTH = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}
A_OF_C = 0.366 / (0.348 + 0.366)


def chinchilla(n, d):
    return 1.82 + 482 / n**0.348 + 2085 / d**0.366


def best_size(c):
    return float(compute_optimal.optimum("parametric", TRUTH, c).parameters)


def draw(points, low, high, seed=0):
    return np.exp(np.random.default_rng(seed).uniform(np.log(low), np.log(high), points))


def noise(points, size=0.01, seed=9):
    return np.exp(size * np.random.default_rng(seed).standard_normal(points))


N, D = draw(200, 1e7, 1e10), draw(200, 1e8, 1e11, seed=1)
CASES = [
    (laws.PARAMETRIC, (N, D), chinchilla(N, D), TRUTH),
    (
        laws.KAPLAN,
        (N, D),
        ((8.8e13 / N) ** 0.8 + 5.4e13 / D) ** 0.095,
        {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_n": 0.076, "alpha_d": 0.095},
    ),
    (
        laws.LEARNING_CURVE,
        (N, D / 1e5),
        (6.5e13 / N) ** 0.077 + (2100 / (D / 1e5)) ** 0.76,
        {"N_c": 6.5e13, "S_c": 2100, "alpha_n": 0.077, "alpha_s": 0.76},
    ),
    (laws.power("n"), (N,), 11.5 / N**0.076, {"A": 11.5, "alpha": 0.076}),
    (laws.power_offset("d"), (D,), 1.7 + 410 / D**0.28, {"E": 1.7, "A": 410, "alpha": 0.28}),
]


@pytest.mark.parametrize(
    "law, variables, losses, truth", CASES, ids=lambda v: getattr(v, "name", "")
)
def test_points_without_noise_give_back_their_parameters(law, variables, losses, truth):
    found = fit(law, variables, losses).parameters
    assert found == pytest.approx(truth, rel=1e-5)


def test_scipy_cannot_descend_below_the_fit():
    from scipy.optimize import minimize
    from scipy.special import huber

    losses = chinchilla(N, D) * noise(200)
    fitted = fit(laws.PARAMETRIC, (N, D), losses)

    def objective(theta):
        e, a, b, alpha, beta = theta
        x, y = fitted.x
        return huber(
            1e-3,
            np.log(np.exp(e) + np.exp(a - alpha * x) + np.exp(b - beta * y)) - np.log(losses),
        ).sum()

    assert objective(fitted.theta) == pytest.approx(fitted.objective, rel=1e-12)
    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 2_000}
    polished = minimize(objective, fitted.theta, method="Nelder-Mead", options=options)
    assert fitted.objective <= polished.fun * (1 + 1e-9)


def test_far_starts_end_no_lower_than_the_fit():
    fitted = fit(laws.PARAMETRIC, (N, D), chinchilla(N, D) * noise(200))
    rng = np.random.default_rng(3)
    starts = rng.uniform([-1, -10, -10, 0, 0], [1, 10, 10, 2, 2], (128, 5))
    _, objectives = minimise(laws.PARAMETRIC, starts, fitted.x, fitted.log_losses)
    assert fitted.objective <= objectives.min() * (1 + 1e-9)
    assert np.mean(objectives < fitted.objective * (1 + 1e-6)) > 0.3


def test_intervals_contain_the_truth_and_agree_with_profiles():
    fitted = fit(laws.PARAMETRIC, (N, D), chinchilla(N, D) * noise(200))
    found = bootstrap(fitted, 300).intervals()
    for name, value in TRUTH.items():
        assert found[name][0] < value < found[name][1]
    low, high = profile(fitted, "alpha", span=0.1).interval
    assert 0.6 < (high - low) / (found["alpha"][1] - found["alpha"][0]) < 1.6


def test_the_profile_of_squares_is_the_closed_form_of_a_line():
    x, losses = N, 11.5 / N**0.076 * noise(200)
    fitted = fit(laws.power("n"), (x,), losses, delta=10.0)
    design = np.stack([np.ones(200), -np.log(x)], axis=1)
    solved, rest, _, _ = np.linalg.lstsq(design, np.log(losses), rcond=None)
    error = np.sqrt(rest[0] / 198 * np.linalg.inv(design.T @ design)[1, 1])
    assert fitted.parameters["alpha"] == pytest.approx(solved[1], rel=1e-8)
    low, high = profile(fitted, "alpha", span=4 * error).interval
    assert [low, high] == pytest.approx(solved[1] + 1.96 * error * np.array([-1, 1]), rel=1e-3)


def test_the_largest_budget_is_predicted_without_it():
    losses = chinchilla(N, D)
    found = quality(fit(laws.PARAMETRIC, (N, D), losses), 6 * N * D)
    assert found.left_out_points == 20
    assert found.left_out_error < 1e-5
    assert found.r_squared == pytest.approx(1)


def test_the_optimum_has_the_lowest_loss_of_its_budget():
    kaplan = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_n": 0.076, "alpha_d": 0.095}
    n = np.geomspace(1e6, 1e12, 200_001)
    d = 1e21 / (6 * n)
    found = compute_optimal.optimum("parametric", TRUTH, 1e21)
    assert found.parameters == pytest.approx(n[chinchilla(n, d).argmin()], rel=1e-3)
    assert found.loss == pytest.approx(chinchilla(n, d).min(), rel=1e-9)
    found = compute_optimal.optimum("kaplan", kaplan, 1e21)
    losses = ((8.8e13 / n) ** 0.8 + 5.4e13 / d) ** 0.095
    assert found.parameters == pytest.approx(n[losses.argmin()], rel=1e-3)
    assert found.loss == pytest.approx(losses.min(), rel=1e-9)


@pytest.mark.parametrize("minimum, tolerance", [("akima", 2e-3), ("parabola", 2e-3)])
def test_minima_of_profiles_follow_the_law(minimum, tolerance):
    c = np.repeat(np.geomspace(1e18, 1e21, 6), 25)
    n = np.array([best_size(x) for x in c]) * np.tile(np.geomspace(1 / 20, 20, 25), 6)
    found = fit_isoflop(n, c / (6 * n), c, chinchilla(n, c / (6 * n)), minimum)
    assert found.size.exponent == pytest.approx(A_OF_C, abs=tolerance)
    assert found.tokens.exponent == pytest.approx(1 - A_OF_C, abs=tolerance)
    assert found.edges == []


def test_a_minimum_at_the_edge_is_left_out_and_listed():
    c = np.repeat(np.geomspace(1e18, 1e21, 6), 25)
    n = np.array([best_size(x) for x in c]) * np.tile(np.geomspace(1 / 20, 20, 25), 6)
    whole = n < 0.4 * best_size(1e18)  # the smallest budget keeps its falling side only
    keep = (c > 1.1e18) | whole
    n, c = n[keep], c[keep]
    found = fit_isoflop(n, c / (6 * n), c, chinchilla(n, c / (6 * n)))
    assert found.edges == [1e18]
    assert found.size.points == 5
    assert found.size.exponent == pytest.approx(A_OF_C, abs=3e-3)


def test_budgets_of_one_size_are_refused():
    c = np.array([1e18, 1e18, 1e18, 2e18])
    n = np.array([1e6, 2e6, 4e6, 2e6])
    with pytest.raises(UserError, match="1 of 2 budgets have fewer than 3 sizes .2e.18 has 1"):
        fit_isoflop(n, c / (6 * n), c, chinchilla(n, c / (6 * n)))


def test_crossovers_of_curves_follow_the_law():
    n = np.repeat(np.geomspace(1e8, 1.6e10, 8), 30)
    d = np.tile(np.geomspace(3e8, 1.6e11, 30), 8)
    found = fit_envelope(n, 6 * n * d, chinchilla(n, d))
    assert found.size.exponent == pytest.approx(A_OF_C, abs=2e-3)


def two_architectures(second):
    """Losses of two groups with exponents 0.1 and `second` of N."""
    n, group = np.tile(np.geomspace(1e6, 1e9, 20), 2), np.repeat(["cnn", "lstm"], 20)
    alpha = np.where(group == "cnn", 0.1, second)
    return n, np.where(group == "cnn", 20.0, 24.0) / n**alpha * noise(40), group


def test_different_exponents_are_told_from_equal_ones():
    n, losses, group = two_architectures(0.1)
    same = compare_exponents(laws.power("n"), (n,), losses, group, resamples=200)
    assert same.p_value > 0.05
    assert same.shared.parameters["A[lstm]"] / same.shared.parameters["A[cnn]"] == pytest.approx(
        1.2, rel=0.02
    )
    n, losses, group = two_architectures(0.13)
    other = compare_exponents(laws.power("n"), (n,), losses, group, resamples=200)
    assert other.p_value < 0.02
    assert other.separate.parameters["alpha[lstm]"] == pytest.approx(0.13, abs=0.005)


def test_bounds_of_three_points_come_from_their_pairs():
    """A draw of one point three times has no exponent, and is repeated."""
    n, group = np.tile(np.geomspace(1e4, 1e6, 3), 2), np.repeat(["lstm", "mlp"], 3)
    losses = np.where(group == "lstm", 5.0, 6.0) * n**-0.06 * np.tile([1, 1.002, 1], 2)
    found = compare_exponents(laws.power("n"), (n,), losses, group, resamples=100)
    assert found.p_value > 0.5
    slopes = -np.diff(np.log(losses[:3])) / np.diff(np.log(n[:3]))
    refits = bootstrap(found.separate, 200, strata=found.separate.x[-1])
    for name in ("alpha[lstm]", "alpha[mlp]"):
        low, high = refits.intervals()[name]
        assert slopes.min() - 1e-6 < low < high < slopes.max() + 1e-6


def test_fewer_points_than_parameters_are_refused():
    with pytest.raises(UserError, match="4 points cannot fit the 5 parameters"):
        fit(laws.PARAMETRIC, (N[:4], D[:4]), chinchilla(N[:4], D[:4]))
    with pytest.raises(UserError, match="9 points have 1 different value of n, too few"):
        fit(laws.power("n"), [np.full(9, 1e6)], np.linspace(2, 3, 9))


def test_a_page_has_words_for_each_figure_of_quality():
    assert _QUALITY.keys() == {*Quality._fields, "largest_residual_line", "rms_residual_n"}
    assert not any("_" in words for words in _QUALITY.values())


def test_groups_that_a_law_fits_exactly_have_equal_exponents():
    n, group = np.tile(np.geomspace(1e6, 1e9, 5), 2), np.repeat(["cnn", "lstm"], 5)
    found = compare_exponents(laws.power("n"), (n,), np.full(10, 3.0), group, resamples=100)
    assert (found.drop, found.p_value) == (0.0, 1.0)
