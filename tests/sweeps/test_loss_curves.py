"""Loss curves of a sweep by compute, and their frontier."""

import json

import numpy as np
import pytest

from lm_jax.sweeps.loss_curves import LossCurve, frontier, frontier_of_curves, read_curves
from lm_jax.sweeps.plots import _curves
from lm_jax.sweeps.results import workdir_of_row
from tests.sweeps.sweep_rows import row


def write(directory, row_of_run, metrics):
    workdir = workdir_of_row(directory, row_of_run)
    workdir.mkdir(parents=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in metrics))


def trained(losses):
    return [{"step": s, "kind": "train", "loss": x} for s, x in enumerate(losses, 1)]


def measured(steps):
    return [{"step": s, "kind": "evaluation", "cross_entropy": 5 - s / 50} for s in steps]


def test_curves_show_validation_losses_where_finished_runs_have_several(tmp_path):
    rows = [row("a"), row("b", status="failed", training_flops=1_000_000)]
    write(tmp_path, rows[0], trained([9.0] * 100) + measured((25, 50, 100)))
    write(tmp_path, rows[1], trained([9.0] * 60) + measured((20, 40)))
    (whole, broken), kind = read_curves(tmp_path, rows)
    assert kind == "validation" and broken.failed and not whole.failed
    np.testing.assert_allclose(whole.flops, 38_400_000 * np.array([0.25, 0.5, 1]))
    np.testing.assert_allclose(whole.losses, [4.5, 4.0, 3.0])
    np.testing.assert_allclose(broken.flops, 10_000 * np.array([20, 40]))


def test_curves_of_training_losses_average_neighbouring_steps(tmp_path):
    rows = [row("a"), row("b"), row("c")]  # the last one has not begun
    losses = 3 + 2 / np.sqrt(np.arange(1, 101))
    write(tmp_path, rows[0], trained(losses) + measured((100,)))
    write(tmp_path, rows[1], [*trained([None, 4.0]), {"step": 3, "kind": "train", "loss": 2.0}])
    (long, short), kind = read_curves(tmp_path, rows)
    assert kind == "training" and 20 < len(long.flops) < 60
    steps = long.flops / 384_000
    np.testing.assert_allclose(long.losses, 3 + 2 / np.sqrt(steps), rtol=5e-3)
    assert steps[0] == pytest.approx(1) and (np.diff(steps) > 0).all()
    np.testing.assert_allclose(short.losses, [4.0, 2.0])


def test_a_run_without_steps_has_no_curve(tmp_path):
    counting = row("ngram", training_flops=None)
    write(tmp_path, counting, measured((1,)))
    assert read_curves(tmp_path, [counting])[0] == []
    assert read_curves(tmp_path / "nowhere", [row("a")])[0] == []


def test_no_run_is_below_the_frontier_at_its_compute():
    rng = np.random.default_rng(0)
    flops, losses = rng.integers(1, 20, 200).astype(float), rng.integers(1, 50, 200).astype(float)
    plainly = {
        (c, x)
        for c, x in zip(flops, losses, strict=True)
        if not any((flops <= c) & (losses <= x) & ((flops < c) | (losses < x)))
    }
    found = frontier(flops, losses)
    assert list(zip(flops[found], losses[found], strict=True)) == sorted(plainly)


def test_the_frontier_of_curves_changes_runs_where_they_cross():
    """The envelope of power laws, straight lines in the logarithms, is exact."""
    grid = np.geomspace(1e6, 1e10, 5)
    small = LossCurve("transformer", 10, False, grid[:4], 40 * grid[:4] ** -0.1)
    large = LossCurve("transformer", 100, False, grid[1:], 400 * grid[1:] ** -0.22)
    flops, losses = frontier_of_curves([small, large])
    both = np.minimum(40 * flops**-0.1, np.where(flops >= grid[1] * 0.999, 400 * flops**-0.22, 1e9))
    np.testing.assert_allclose(losses, both, rtol=1e-6)
    assert (flops[0], flops[-1]) == (1e6, 1e10) and np.isfinite(losses).all()


def test_a_run_that_diverged_does_not_squeeze_the_others():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    flops = np.geomspace(1e9, 1e10, 5)
    sound = [LossCurve("lstm", n, False, flops, np.linspace(6, 5 - n / 1e4, 5)) for n in (64, 128)]
    wild = LossCurve("lstm", 256, False, flops, np.linspace(48, 9, 5))
    plot = _curves([*sound, wild], "validation")
    figure, axes = pyplot.subplots()
    plot.draw(axes)
    assert axes.get_ylim()[1] == pytest.approx(1.02 * 6) and "runs that diverged" in plot.caption
    assert "not shown" not in _curves(sound, "validation").caption
    pyplot.close(figure)
