"""One name, unit and number of digits for each measure, wherever it is shown."""

import pytest

from lm_jax.reports.measures import (
    card_of,
    further_measures_of,
    label_of,
    label_of_difference,
    measure,
    measures_of,
    table_of_parts,
)


def test_all_figures_of_an_evaluation_have_a_line():
    figures = {"cross_entropy": 1.886334890795032, "cross_entropy_standard_error": None}
    figures |= {"nats": 210325.4, "accuracy": 0.5, "accuracy_standard_error": 0.012}
    figures |= {"auxiliary": {"balance": 0.25}, "tasks": {"sort": {"tokens": 1234, "bits": None}}}
    assert measures_of(figures) == [
        ("cross-entropy, nats", "1.886"),
        ("accuracy, %", "50.0 ± 1.2"),
    ]
    assert further_measures_of(figures) == [("auxiliary.balance", "0.25")]
    assert table_of_parts(figures["tasks"]) == (["tokens predicted"], [["sort", "1,234"]])


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("accuracy", 0.2099, 0.0075, "20.99 ± 0.75"),
        ("accuracy", 0.50649, None, "50.6"),  # as many digits as 154 examples give
        ("perplexity", 609.4427, None, "609.4"),
        ("word_perplexity", 658_242.4, None, "658,242"),
        ("bits_per_byte", 2.78774, None, "2.788"),
        ("tokens", 14_656, None, "14,656"),
    ],
)
def test_a_measure_has_its_unit_and_no_digit_too_many(name, value, error, text):
    assert measure(name, value, error) == text


def test_a_card_has_the_digits_that_the_error_allows():
    figures = {"accuracy": 0.6364, "accuracy_standard_error": 0.039, "examples": 154}
    figures |= {"cross_entropy": 0.94532, "cross_entropy_standard_error": 0.062}
    assert card_of("accuracy", figures) == ("63.6%", "accuracy")
    assert card_of("cross_entropy", figures) == ("0.945", "cross-entropy, nats per example")


def test_shares_are_in_percent_and_differ_by_points():
    assert label_of("accuracy", "") == "accuracy, %"
    assert label_of_difference("accuracy", "tokens") == "accuracy, percentage points"
    assert label_of_difference("cross_entropy", "tokens") == "cross-entropy, nats per token"
    assert label_of("of_an_objective", "") == "of an objective"
