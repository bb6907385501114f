"""The page of a sweep, from made-up results."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lm_jax.config.experiment import EvaluationConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import PositionSums
from lm_jax.runs.workdir import write_by_position
from lm_jax.sweeps.plots import plots_of
from lm_jax.sweeps.report import write_sweep_page
from lm_jax.sweeps.results import workdir_of_row, write_results
from tests.reports.pages import Page
from tests.sweeps.sweep_rows import grid_rows, row


def final_loss(width, rate, seed):
    """Lowest at 2e-3; None, a failed run, for wide models at high rates."""
    if width == 128 and rate == 4e-3:
        return None
    return 2 + (1e3 * rate - 2) ** 2 / 10 + 8 / width + seed / 100


def profiles():
    """Three budgets of five sizes, each with its minimum inside."""
    return [
        row(
            f"{budget}-{width}",
            {"budget": budget, "model.d_model": width},
            non_embedding_parameters=24 * width**2,
            training_flops=int(budget),
            training_tokens=int(budget) // (144 * width**2),
            validation_loss=2 + 1e9 / budget + abs(width / best - 1) ** 2 / 10,
        )
        for budget, best in ((1e9, 70), (4e9, 100), (1.6e10, 140))
        for width in (48, 64, 96, 128, 192)
    ]


def provenance_of(text):
    return text.split("<h2>Provenance")[1]


def test_results_alone_make_the_page_and_the_same_plots_again(tmp_path):
    rows = grid_rows(final_loss, seeds=(0, 1))
    source = write_results(tmp_path, rows)
    path, pictures = write_sweep_page(tmp_path)
    assert pictures == ["learning_rates", "best_learning_rates"]
    files = {file.name for file in (tmp_path / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in pictures for kind in ("svg", "png")}
    text = path.read_text()
    page = Page(text)
    assert len(page.all("img")) == 2
    for text_shown in ("Best learning rates", "Failed runs", "the loss of step 3 is nan", "jax=1"):
        assert text_shown in text
    assert all(each["name"] in text and each["address"] in text for each in rows)
    assert "<strong>10</strong><span>finished" in text
    assert "<strong>2</strong><span>failed" in text
    caption = page.all("img")[0]["alt"]
    assert "crosses above: runs that failed" in caption and "triangles" not in caption

    assert ">2.1300 ± 0.0050</td>" in text  # the mean of width 64 at 2e-3, of seeds 0 and 1
    assert "<td>2 of 2 failed</td>" in text
    assert all(cell for cell in re.findall("<td>([^<]*)</td>", provenance_of(text)))

    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(source, other)
    write_sweep_page(other)
    for name in files:
        again = (other / "figures" / name).read_bytes()
        assert again == (tmp_path / "figures" / name).read_bytes(), name


def test_a_sweep_of_budgets_has_profiles_and_compute(tmp_path):
    write_results(tmp_path, profiles())
    path, pictures = write_sweep_page(tmp_path)
    assert pictures == ["isoflop", "compute"]
    assert "no minima" not in path.read_text()
    write_results(tmp_path, [r for r in profiles() if r["model.d_model"] > 100])
    assert (
        "no minima: 3 of 3 budgets have fewer than 3" in write_sweep_page(tmp_path)[0].read_text()
    )


def test_runs_with_metrics_have_curves_and_positions(tmp_path):
    rows = [row("a", {"model.d_model": 32}), row("b", {"model.d_model": 64}, status="running")]
    for each in rows:
        place = workdir_of_row(tmp_path, each)
        place.mkdir(parents=True)
        steps = [{"step": s, "kind": "train", "loss": 5 / s} for s in range(1, 50)]
        (place / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    sums = PositionSums(np.array([15.0, 12.0]), np.array([3.0, 3.0]))
    place = workdir_of_row(tmp_path, rows[0])
    write_by_position(place, "validation", sums, rows[0]["steps"], EvaluationConfig())
    write_results(tmp_path, rows)
    (place / "report.html").write_text("")
    path, pictures = write_sweep_page(tmp_path)
    assert pictures == ["curves", "positions"]
    (link,) = Page(path.read_text()).all("a")  # the other run has no page yet
    assert (tmp_path / link["href"]).is_file() and link["href"].startswith("runs/a-")


def test_provenance_names_only_what_is_known(tmp_path, monkeypatch):
    unknown = {"command": "", "commit": None, "versions": {"lm_jax": "0.1.0"}}
    monkeypatch.setattr("lm_jax.sweeps.report.environment", lambda: unknown)
    write_results(tmp_path, [r | {"device": ""} for r in grid_rows(final_loss)])
    found = provenance_of(write_sweep_page(tmp_path)[0].read_text())
    assert "made by" not in found and "drawn at commit" not in found and "None" not in found


def test_a_sweep_without_finished_runs_has_a_page(tmp_path):
    rows = grid_rows(lambda *_: None)
    write_results(tmp_path, rows)
    assert write_sweep_page(tmp_path)[1] == ["learning_rates", "best_learning_rates"]
    write_results(tmp_path, [r | {"status": "waiting"} for r in rows])
    assert write_sweep_page(tmp_path)[1] == []


def test_a_directory_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no results.csv; launch.sweep --table writes it"):
        write_sweep_page(tmp_path)


def test_a_run_that_diverged_does_not_squeeze_the_losses_by_compute():
    rows = profiles()
    rows[0] |= {"validation_loss": 90.0}
    plot = plots_of(Path("nowhere"), rows)["compute"]
    assert plot.caption.endswith("triangles: losses above the axis")
    figure, axes = pytest.importorskip("matplotlib.pyplot").subplots()
    plot.draw(axes)
    sensible = max(each["validation_loss"] for each in rows[1:])
    assert axes.get_ylim()[1] == pytest.approx(1.02 * sensible)
    (marks,) = [line for line in axes.lines if line.get_marker() == "^"]
    assert marks.get_xdata() == [rows[0]["training_flops"]]
    rows[0] |= {"validation_loss": sensible}
    assert "triangles" not in plots_of(Path("nowhere"), rows)["compute"].caption
