"""Axes have round numbers."""

import itertools
import re

import numpy as np
import pytest

from lm_jax.reports.svg_charts import Series, line_chart, scatter_chart


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


def test_a_map_spreads_clumps_and_no_name_overlaps_another():
    random = np.random.default_rng(0)
    points = random.normal(0, 1e-3, (150, 2))
    points[0] = 100, 100  # one far point would squeeze all others into a corner
    names = [f"·word{i}" if i % 2 else f"word{i}" for i in range(150)]
    chart, unnamed = scatter_chart(names, points.tolist())
    found = re.findall(r'x="([0-9.]+)" y="([0-9.]+)" text-anchor="start">([^<]+)<', chart)
    boxes = [(float(x), float(y) - 11, float(x) + 7 * len(n), float(y) + 3) for x, y, n in found]
    assert len(found) == 150 - unnamed > 120
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    assert all(left >= 0 and right <= 960 for left, _, right, _ in boxes)
    assert chart.count("<title>") == 150  # every point tells its name


def test_points_of_a_map_keep_their_order():
    chart, _ = scatter_chart(["a", "b", "c"], [[0.0, 5.0], [1e-9, 4.0], [7.0, 6.0]])
    xs = [float(x) for x in re.findall(r'cx="([0-9.]+)"', chart)]
    ys = [float(y) for y in re.findall(r'cy="([0-9.]+)"', chart)]
    assert xs == [40, 480, 920] and ys == [320, 600, 40]


def test_points_at_one_place_have_a_tick_there():
    chart = line_chart([Series("a", [12_800], [91.1]), Series("b", [12_800], [73.3])], "x", "y")
    (x,) = re.findall('<text class="" x="([0-9.]+)" y="[0-9.]+" text-anchor="middle">12,800', chart)
    assert chart.count(f'cx="{x}"') == 2 and 100 < float(x) < 250  # in the middle
