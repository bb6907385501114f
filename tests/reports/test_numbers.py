"""Two significant digits of the error decide how many digits a value has."""

import pytest

from lm_jax.reports.numbers import with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (4.779123, 0.36612, "4.78 ± 0.37"),
        (4.779123, 0.0996, "4.78 ± 0.10"),
        (1234.5, 12.3, "1,234 ± 12"),
        (1.5, 3e-4, "1.50000 ± 0.00030"),
        (1.5, None, "1.5000"),
        (1.5, 0.0, "1.5000"),
    ],
)
def test_a_value_has_the_digits_that_its_error_allows(value, error, text):
    assert with_error(value, error) == text
