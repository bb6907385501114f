"""Axes have round numbers."""

import pytest

from lm_jax.reports.svg_charts import Series, line_chart


@pytest.mark.parametrize(
    ("most", "labels"),
    [(1.5e6, ["500k", "1M", "1.5M"]), (5, ["2", "4"]), (4e-4, ["0.0002", "0.0004"])],
)
def test_axes_are_labelled_in_round_numbers(most, labels):
    chart = line_chart([Series("loss", [0, most], [1.0, 2.0])], "tokens", "nats")
    assert all(f">{label}</text>" in chart for label in labels)
