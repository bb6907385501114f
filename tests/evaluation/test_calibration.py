import numpy as np
import pytest

from lm_jax.evaluation.calibration import calibration, share_with_interval


def test_the_error_is_the_mean_gap_of_the_bins():
    confidences = np.array([0.95, 0.91, 0.55, 0.6, 0.6, 1.0])
    is_right = np.array([True, False, True, False, False, True])
    found = calibration(confidences, is_right)
    assert [(b.low, b.high, b.answers) for b in found.bins] == [(0.5, 0.6, 3), (0.9, 1.0, 3)]
    low, high = abs(1 / 3 - 1.75 / 3), abs(2 / 3 - 2.86 / 3)
    assert found.error == pytest.approx((low + high) / 2)
    perfect = calibration(np.array([1.0, 0.0]), np.array([True, False]))
    assert perfect.error == 0 and [b.low for b in perfect.bins] == [0, 0.9]


def test_an_interval_is_wilsons():
    found = share_with_interval("x", 8, 10)  # Newcombe 1998, table I has 0.4902 to 0.9433
    assert found["x"] == 0.8 and found["x_interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert share_with_interval("x", 0, 5)["x_interval"][0] == 0
