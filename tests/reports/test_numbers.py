"""Two significant digits of the error decide how many digits a value has."""

import pytest

from lm_jax.reports.numbers import on_card, text_of, with_error


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


@pytest.mark.parametrize(
    ("value", "text"),
    [(9906.86, "9,906.9"), (11223.1, "11,223"), (1e-05, "1e-05"), (True, "true"), (1024, "1,024")],
)
def test_a_cell_has_thousands_and_truth_values_as_flags_take_them(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(300, "300"), (999_999, "999,999"), (2_173_056, "2.17M"), (1_709.8, "1,710"), (7e9, "7B")],
)
def test_a_count_on_a_card_fits_in_seven_characters(count, text):
    assert on_card(count) == text


def test_a_cell_stays_on_its_line():
    assert text_of("\n") == "'\\n'" and text_of("ROMEO:") == "ROMEO:"
