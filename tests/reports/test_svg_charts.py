"""Axes have round numbers."""

import itertools
import re

import pytest

from lm_jax.reports.svg_charts import Series, line_chart


@pytest.mark.parametrize(
    ("most", "labels"),
    [
        (1.5e6, ["0.5M", "1.0M", "1.5M"]),
        (1e5, ["20k", "80k", "100k"]),
        (0.1, ["0.02", "0.10"]),
        (5, ["2", "4"]),
        (4e-4, ["0.0002", "0.0004"]),
    ],
)
def test_axes_are_labelled_in_round_numbers_of_one_kind(most, labels):
    chart = line_chart([Series("loss", [0, most], [1.0, 2.0])], "tokens", "nats")
    assert all(f">{label}</text>" in chart for label in labels)


def test_a_long_legend_gets_lines_of_its_own():
    names = [f"a run with a long name {i}" for i in range(8)] + ["x" * 500]
    chart = line_chart([Series(name, [0, 1], [1.0, 2.0]) for name in names], "step", "nats", 960)
    entries = re.findall(r'x="([0-9.]+)" y="([0-9.]+)" text-anchor="start">(a run|x)', chart)
    assert len(entries) == 9
    by_line = {}
    for x, y, _ in entries:
        by_line.setdefault(float(y), []).append(float(x))
    assert len(by_line) > 2 and min(by_line) > 14  # below the label of the axis
    assert all(b - a >= 7 * 25 for xs in by_line.values() for a, b in itertools.pairwise(xs))
    assert "x" * 200 not in chart.replace('data-name="' + "x" * 500, "")
