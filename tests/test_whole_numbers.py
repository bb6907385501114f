import pytest

from lm_jax.whole_numbers import whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1)]
    + [(text, None) for text in ("", "-1", "1.0", "1e3", "1_0", " 1", "1\n", "\u00b2", "\u0661")]
    + [("9" * 19, None), ("9" * 5000, None)],
)
def test_a_whole_number_has_up_to_18_digits_and_nothing_else(text, number):
    assert whole_number(text) == number
