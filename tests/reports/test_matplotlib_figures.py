"""The style, labels and files of all matplotlib figures."""

import sys

import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.reports.matplotlib_figures import (
    Plot,
    apart,
    clear_places,
    colours,
    spread,
    write_figures,
)
from lm_jax.reports.numbers import short
from lm_jax.scaling_laws.plots import write_page
from lm_jax.sweeps.report import write_sweep_page


def test_labels_move_no_further_than_they_must():
    """Compares with least squares under lower bounds on the gaps."""
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 12):
        places = np.sort(rng.uniform(0, 1, count))
        offsets = 0.1 * np.arange(count)
        # places = start + offsets + cumulative gaps
        steps = np.tril(np.ones((count, count)))
        low = np.r_[-np.inf, np.zeros(count - 1)]
        best = lsq_linear(steps, places - offsets, (low, np.inf), tol=1e-14)
        np.testing.assert_allclose(spread(places, 0.1), steps @ best.x + offsets, atol=1e-6)
    np.testing.assert_array_equal(spread(np.array([0.0, 0.5, 1.0]), 0.1), [0, 0.5, 1])


def test_numbers_are_short():
    shown = [short(x) for x in (0.000976, 0.016, 2.5, 64, 1024, 98_304, 1_572_864, 2e9)]
    assert shown == ["0.00098", "0.016", "2.5", "64", "1024", "98.3k", "1.57M", "2B"]


def test_ticks_close_to_others_are_left_out():
    assert apart([1, 2, 4, 8, 16], 4) == [1, 2, 4, 8, 16]
    assert apart([1, 2, 4, 8, 16], 2) == [1, 4, 16]
    assert apart([3312, 3505, 3870, 14_496, 14_747, 390_881], 12) == [3312, 14_496, 390_881]
    assert apart([64], 6) == [64] and apart([], 6) == []


def test_labels_of_contours_stand_clear_of_edges_points_and_each_other():
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    axes.set(xscale="log", yscale="log", xlim=(1, 10), ylim=(1, 10))
    heights = 10 ** np.linspace(0, 1, 101)
    curves = [np.stack([np.full(101, x), heights], 1) for x in (1.02, 2.0, 2.1, 5.0)]
    drawn = np.array([[2.0, 10**0.25], [5.0, 5.0]])
    places = clear_places(axes, curves, drawn)
    shares = np.log10(places)
    assert [round(x, 6) for x, _ in places] == [2.0, 2.1, 5.0]  # the first is at the edge
    assert (shares > 0.08).all() and (shares < 0.92).all()
    everything = np.concatenate([np.log10(drawn), shares])
    gaps = np.linalg.norm(everything[:, None] - everything, axis=-1)
    assert gaps[np.triu_indices(len(everything), 1)].min() > 0.07
    assert clear_places(axes, [curves[0]], drawn) == []


def luminance(colour):
    """Relative luminance of sRGB, WCAG 2.2."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_colours_stand_out_on_white_and_inverted_on_black():
    pytest.importorskip("matplotlib")
    shades = colours(8)[:, :3]
    assert (1.05 / (luminance(shades) + 0.05)).min() >= 2.95
    # What `filter: invert(0.9) hue-rotate(180deg)` of page.css makes of them.
    inverted = 0.9 - 0.8 * shades
    weights = np.array([0.213, 0.715, 0.072])
    turned = np.clip(2 * (inverted @ weights)[:, None] - inverted, 0, 1)
    background = luminance(np.full(3, 0.1))
    assert ((luminance(turned) + 0.05) / (background + 0.05)).min() >= 2.95


def test_a_plot_records_its_provenance_and_is_reproducible(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    plot = Plot("A line & more", lambda axes: axes.plot([1, 2], [3, 4]))
    page = write_figures({"line": plot}, tmp_path, "From results.csv")
    assert "A line &amp; more" in page and page.count("<figure") == 1
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"line.svg", "line.png"}
    assert all(b"From results.csv" in content for content in before.values())
    assert before["line.png"].startswith(b"\x89PNG")
    assert write_figures({"line": plot}, tmp_path, "From results.csv") == page
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert matplotlib.rcParams["svg.hashsalt"] != "lm_jax"  # other figures keep their style


@pytest.mark.parametrize(
    "write",
    [
        lambda directory: write_figures({}, directory, ""),
        write_sweep_page,
        lambda directory: write_page(None, directory),
    ],
)
def test_without_matplotlib_the_message_says_what_to_install(write, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"plots need matplotlib; pip install -e '.\[plots\]'"):
        write(tmp_path)
