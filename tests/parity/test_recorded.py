"""The comparison with recorded numbers: what it lets pass."""

import numpy as np
import pytest

from tests.parity.recorded import rounding


@pytest.mark.parametrize(
    ("value", "expected"),
    [([0.5, -0.25], 1e-5), ([3.0, -20.0], 2e-4), ([3.0, -np.inf, np.nan], 3e-5), ([], 1e-5)],
)
def test_what_rounding_explains_is_finite(value, expected):
    assert rounding(np.array(value), atol=1e-5) == pytest.approx(expected)
