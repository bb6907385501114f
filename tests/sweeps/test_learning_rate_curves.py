"""Learning-rate curves: their minima, and which runs share a curve or a panel."""

import numpy as np
import pytest
from scipy import stats

from lm_jax.sweeps.learning_rate_curves import (
    LearningRateCurve,
    learning_rate_curves,
    panels_of,
    size_column,
)
from lm_jax.sweeps.learning_rate_plots import _limits, learning_rate_plot
from tests.sweeps.sweep_rows import grid_rows, row, with_column


def curve(rates, losses, failed=None):
    failed = np.zeros(len(rates), int) if failed is None else np.array(failed)
    return LearningRateCurve("", 64, np.array(rates), [np.atleast_1d(x) for x in losses], failed)


def test_the_loss_of_the_best_rate_is_measured_and_only_a_rate_is_estimated():
    rates = np.array([1e-3, 2e-3, 5e-3, 1e-2])  # spaced unevenly
    for optimum, height in ((2.6e-3, 1.5), (1.9e-3, 2.0), (4e-3, 0.7)):
        losses = height + 0.3 * np.log(rates / optimum) ** 2
        found = curve(rates, losses).best()
        assert (found.rate, found.loss) == (rates[losses.argmin()], losses.min())
        assert found.loss > height and (found.error, found.seeds) == (None, 1)
        assert found.estimated_rate == pytest.approx(optimum, rel=1e-9)
        assert found.low <= found.estimated_rate <= found.high and not found.at_edge


def test_rates_a_factor_of_four_apart_give_the_mean_and_error_of_the_seeds():
    seeds = [2.7983, 2.7964, 2.8144]
    losses = [[3.0993, 3.0917, 3.1026], seeds, [3.1095, 3.1127, 3.0950]]
    found = curve([1e-3, 4e-3, 1.6e-2], losses).best()
    assert (found.rate, found.seeds) == (4e-3, 3)
    assert found.loss == pytest.approx(np.mean(seeds)) == pytest.approx(2.803033333)
    assert found.error == pytest.approx(stats.sem(seeds))


def test_a_minimum_at_the_edge_of_the_rates_is_marked():
    found = curve([1e-3, 2e-3, 4e-3], [3.0, 2.0, 1.0]).best()
    assert found.at_edge and (found.rate, found.loss, found.estimated_rate) == (4e-3, 1.0, None)
    found = curve([1e-3, 2e-3], [1.0, 2.0]).best()
    assert found.at_edge and found.estimated_rate is None


def test_beside_a_failed_rate_nothing_is_estimated():
    rates, losses = [1e-3, 2e-3, 4e-3], [[2.0, 2.2], [1.0, 1.2], [0.5]]
    found = curve(rates, losses, failed=[0, 0, 1])
    np.testing.assert_allclose(found.means, [2.1, 1.1, np.nan])
    best = found.best()
    assert (best.rate, best.loss, best.low, best.high) == (2e-3, 1.1, 1e-3, 4e-3)
    assert not best.at_edge and best.estimated_rate is None
    assert curve([1e-3, 2e-3], [[], []], failed=[1, 2]).best() is None


def test_runs_of_a_curve_differ_only_in_rate_and_seed():
    rows = grid_rows(lambda w, rate, seed: 2 + seed + 100 * rate, seeds=(0, 1))
    narrow, wide = learning_rate_curves(rows)
    assert (narrow.panel, narrow.size, wide.size) == ("", 64, 128)
    np.testing.assert_array_equal(narrow.rates, [1e-3, 2e-3, 4e-3])
    np.testing.assert_allclose(narrow.losses[1], [2.2, 3.2])
    np.testing.assert_allclose(narrow.means, [2.6, 2.7, 2.9])


def test_failed_runs_count_and_running_ones_do_not():
    rows = grid_rows(lambda w, rate, seed: None if rate == 4e-3 else 2.0, widths=(64,))
    rows[0] |= {"status": "running", "validation_loss": None}
    (found,) = learning_rate_curves(rows)
    np.testing.assert_array_equal(found.rates, [2e-3, 4e-3])
    np.testing.assert_array_equal(found.failed, [0, 1])


def test_other_varied_fields_make_panels():
    rows = grid_rows(lambda *_: 2.0, mup_base_width=0) + grid_rows(
        lambda *_: 2.0, mup_base_width=64
    )
    rows = with_column(rows, "model.num_heads", lambda each: each["model.d_model"] // 16)
    panels = [(b.panel, b.size) for b in learning_rate_curves(rows)]
    standard, mup = "standard parametrisation", "muP from width 64"
    assert panels == [(standard, 64), (standard, 128), (mup, 64), (mup, 128)]


def test_columns_that_follow_from_earlier_ones_are_not_named():
    rows = [
        row(
            f"{budget}-{width}", {"budget": budget, "model.d_model": width, "training.num_steps": n}
        )
        for budget, width, n in ((1e9, 64, 100), (1e9, 128, 30), (2e9, 64, 200), (2e9, 128, 60))
    ]
    assert panels_of(rows, "width") == ["budget=1e+09"] * 2 + ["budget=2e+09"] * 2
    assert size_column(rows) == "width"


def test_a_rate_tuned_for_each_budget_makes_no_curve_of_several_budgets():
    rows = grid_rows(lambda *_: 2.0, rates=(1e-3,), budget=1e9)
    rows += grid_rows(lambda *_: 1.9, rates=(5e-4,), budget=2e9)
    assert learning_rate_curves(rows) == []
    tuned = rows + grid_rows(lambda *_: 1.8, rates=(2e-3,), budget=2e9)
    assert [(b.panel, b.size) for b in learning_rate_curves(tuned)] == [
        ("budget=2e+09", 64),
        ("budget=2e+09", 128),
    ]


def test_families_have_curves_of_their_own_whatever_their_widths_are_called():
    rows = grid_rows(lambda *_: 2.0, widths=(64,)) + grid_rows(lambda *_: 3.0, widths=(96,))
    for each in rows[3:]:
        each |= {"family": "recurrent", "model.d_model": None}
    rows = with_column(rows, "model.d_hidden", lambda each: None if each["model.d_model"] else 96)
    assert [(b.panel, b.size) for b in learning_rate_curves(rows)] == [
        ("transformer", 64),
        ("recurrent", 96),
    ]


def test_without_a_width_sizes_are_parameters_and_without_rates_there_is_no_curve():
    rows = grid_rows(lambda *_: 2.0, widths=(64,))
    assert size_column(rows) == "non_embedding_parameters"
    assert [b.size for b in learning_rate_curves(rows)] == [24 * 64**2]
    assert learning_rate_curves(grid_rows(lambda *_: 2.0, rates=(1e-3,))) == []
    assert (
        learning_rate_curves([row("alone", validation_loss=2.0)]) == [] == learning_rate_curves([])
    )


def test_a_plot_shows_the_lowest_three_points_of_each_curve_and_leaves_out_outliers():
    steep = curve([1, 2, 3, 4], [[4.17], [3.41], [2.93], [2.61]])
    assert _limits([steep]).top == 3.41
    flat = curve([1, 2, 3, 4], [[2.7], [2.61], [2.65], [9.0]])
    assert _limits([flat]).top == pytest.approx(1.25 * 2.61)
    assert _limits([flat, steep]).top == 3.41
    short = curve([1, 2], [[2.7], [2.61]])
    assert _limits([short]).top == 2.7
    assert _limits([curve([1, 2, 3], [[2.7], [2.61], [90.0]])]).top == pytest.approx(1.25 * 2.61)
    lost = curve([1, 2], [[60.0], [90.0]])
    assert _limits([flat, steep, lost]).top == 3.41
    assert _limits([lost]).top == 90


@pytest.mark.parametrize("failed", [None, [0, 0, 0, 2]])
def test_the_marker_of_the_highest_loss_is_whole(failed):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    made = [curve([1e-3, 2e-3, 4e-3, 8e-3], [[2.9], [2.6], [2.7], [9.0]], failed)]
    figure, axes = pyplot.subplots()
    learning_rate_plot(made, "width").draw(axes)
    height = figure.dpi * 5 / 72  # pixels of a marker
    (dots,) = [line for line in axes.lines if line.get_marker() == "."]
    (triangles,) = [line for line in axes.lines if line.get_marker() == "^"]
    below = axes.transData.transform(np.c_[dots.get_data()])[:, 1]
    (end,) = axes.transData.transform(np.c_[triangles.get_data()])[:, 1]
    assert len(below) == 3 and below.max() + height / 2 < end
    assert below.min() - height / 2 > axes.transAxes.transform((0, 0))[1]
    pyplot.close(figure)
