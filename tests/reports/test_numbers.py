"""Two significant digits of the error decide how many digits a value has."""

import pytest

from lm_jax.reports.numbers import bounded, bytes_of, on_card, text_of, timing, with_error


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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123456, "0.00123"),
        (0.9996, "1.00"),
        (4.5, "4.50"),
        (12.345678, "12.3"),
        (99.96, "100"),
        (126_867.4, "127,000"),
    ],
)
def test_a_time_has_three_digits(value, text):
    assert timing(value) == text


def test_a_cell_stays_on_its_line():
    assert text_of("\n") == "'\\n'" and text_of("ROMEO:") == "ROMEO:"


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.65946, 0.39849, 0.79816, ("0.659", "0.398 to 0.798")),
        (1360.4, 184.76, 116_132.8, ("1,360", "185 to 116,133")),
        (0.00013147, 8.3088e-11, 208.03, ("0.000131", "8.31e-11 to 208")),
        (1.5412e7, 1.0235e6, 8.0338e7, ("1.54e+07", "1.02e+06 to 8.03e+07")),
        (0.498761, 0.498234, 0.499128, ("0.49876", "0.49823 to 0.49913")),  # tight: more digits
        (9.9996, 9.0, 11.0, ("10.0", "9.00 to 11.0")),
        (2.0, 2.0, 2.0, ("2.0000", "2.0000 to 2.0000")),
        (1.0, 0.0, float("inf"), ("1.0000", "0 to inf")),
    ],
)
def test_an_interval_has_the_digits_that_tell_its_bounds_apart(value, low, high, shown):
    assert bounded(value, low, high) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999 bytes"), (122_921, "123 kB"), (999_600, "1.00 MB"), (4_560_000_000, "4.56 GB")],
)
def test_bytes_have_a_unit_that_fits(count, text):
    assert bytes_of(count) == text
