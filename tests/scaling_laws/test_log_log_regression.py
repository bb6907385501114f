"""Straight lines in logarithms beside SciPy's regression."""

import numpy as np
import pytest
from scipy import stats

from lm_jax.scaling_laws.log_log_regression import fit_line


def test_a_line_and_its_intervals_are_those_of_scipy():
    x = np.array([1e3, 4e3, 1e4, 5e4, 2e5])
    y = 3 * x**-0.2 * np.exp([0.02, -0.03, 0.01, 0.04, -0.02])
    found, expected = fit_line(x, y), stats.linregress(np.log(x), np.log(y))
    assert found.exponent == pytest.approx(expected.slope, rel=1e-12)
    assert found.coefficient == pytest.approx(np.exp(expected.intercept), rel=1e-12)
    quantile = stats.t.ppf(0.975, len(x) - 2)
    low, high = found.exponent_interval()
    assert (high - low) / 2 == pytest.approx(quantile * expected.stderr, rel=1e-9)
    low, high = np.log(found.coefficient_interval())
    assert (high - low) / 2 == pytest.approx(quantile * expected.intercept_stderr, rel=1e-9)
