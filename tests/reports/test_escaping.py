"""Texts, names and tokens that look like markup are shown as they are on every page."""

import json

import numpy as np
import pytest

from lm_jax.reports.compare_runs import compare
from lm_jax.reports.comparison_page import write_comparison
from lm_jax.reports.html import render
from lm_jax.reports.png import png
from lm_jax.reports.run_report import write_report
from lm_jax.scaling_laws import laws
from lm_jax.scaling_laws.observations import Points
from lm_jax.scaling_laws.plots import write_page
from lm_jax.scaling_laws.study import study_law, with_groups
from lm_jax.sweeps.report import write_sweep_page
from lm_jax.sweeps.results import write_results
from tests.reports.pages import HOSTILE, Page, analysis_page
from tests.reports.test_attention_section import CROSS
from tests.reports.test_compare_runs import finished
from tests.reports.test_generation_section import NODES, STEPS
from tests.sweeps.sweep_rows import row

# `png` makes the only pictures of a run report, matplotlib those of the other pages.
PICTURE = png(np.eye(4))
OWN_SCRIPTS = ("document.", "[{")  # how our scripts and their JSON begin or go on
ANALYSIS = {
    "labels": ["cat", HOSTILE],
    "confusion": [[1, 2], [3, 4]],
    "mistakes": [{"label": HOSTILE, "predicted": HOSTILE, "probability": 0.5, "image": PICTURE}],
    "expert_loads": {HOSTILE: [[1, 2], [3, 0]], "b": [[0, 0]]},
    "embedding": {
        "words": [HOSTILE, "b", "c"],
        "points": [[0, 0], [1, 0], [0, 1]],
        "neighbours": {HOSTILE: [HOSTILE]},
    },
    "attention": {"cross": CROSS | {"readers": [HOSTILE, "b"], "read": ["x", HOSTILE, "z"]}},
    "next_tokens": {
        "text": HOSTILE,
        "source": [HOSTILE],
        "steps": [{**step, "after": HOSTILE, "next": HOSTILE} for step in STEPS],
    },
    "beams": [node | {"tokens": [HOSTILE]} for node in NODES],
}


def assert_harmless(text):
    page = Page(text)  # raises where tags do not match
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert attributes.get("src", "data:").startswith("data:"), (tag, attributes)
    assert all(any(own in script for own in OWN_SCRIPTS) for _, script in page.scripts)
    assert "{{ 7 * 7 }}" in text and "alert('" not in text.replace("\\u0027", "")


@pytest.mark.parametrize("mistakes", ["image", "text"])
def test_a_run_report(tmp_path, mistakes):
    analysis = dict(ANALYSIS)
    if mistakes == "text":
        analysis["mistakes"] = [
            {"label": HOSTILE, "predicted": HOSTILE, "probability": 0.5, "text": HOSTILE}
        ]
    metrics = {"kind": "train", "step": 1, "loss": 1.0, f"{HOSTILE}_per_second": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    (tmp_path / "samples.txt").write_text(HOSTILE)
    facts = {HOSTILE: {HOSTILE: HOSTILE}}
    for name in ("config", "data", "environment"):
        (tmp_path / f"{name}.json").write_text(json.dumps(facts))
    results = {
        "validation": {"bits_per_character": 2.0},
        "baselines": {HOSTILE: 3.0},
        "timings": {f"{HOSTILE}_per_second": 1.0},
        "profile": {"seconds": {HOSTILE: 1.0}, "steps": [1, 2]},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(results))
    (tmp_path / "inspection.json").write_text(json.dumps(analysis))
    assert_harmless(write_report(tmp_path).read_text(encoding="utf-8"))


def test_a_comparison(tmp_path):
    path = finished(tmp_path, "lstm-0", 0, 2.0)
    rows = [compare([path])[0]._replace(name=HOSTILE)] * 2
    assert_harmless(write_comparison(rows, tmp_path).read_text(encoding="utf-8"))
    assert "<img" not in (tmp_path / "comparison.svg").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("error:constrained_layout")
def test_a_sweep(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        row(HOSTILE, {f"model.{HOSTILE}": HOSTILE}, validation_loss=1.0),
        row("failed", {f"model.{HOSTILE}": "b"}, status="failed", error=HOSTILE),
    ]
    write_results(tmp_path, rows)
    assert_harmless(write_sweep_page(tmp_path)[0].read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("error:constrained_layout")
def test_a_scaling_law(tmp_path):
    pytest.importorskip("matplotlib")
    n = np.geomspace(1e4, 1e6, 6).repeat(2)
    groups = np.array([HOSTILE, "lstm"] * 6)
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(12)
    points = Points({"n": n, "loss": 8 * n**-0.1 * noise}, groups, np.arange(12))
    study = study_law(points, laws.power("n"), resamples=100)
    study = with_groups(study, laws.power("n"), resamples=100)
    assert_harmless(write_page(study, tmp_path, HOSTILE).read_text(encoding="utf-8"))


def test_a_template_needs_all_its_values():
    with pytest.raises(Exception, match="'figures' is undefined"):
        render("comparison.html", title="")


def test_an_address_of_a_picture_cannot_leave_its_attribute():
    names = ("filters", "feature_maps", "feature_maps_of")
    mistakes = [{"label": "a", "predicted": "b", "probability": 0.5, "image": HOSTILE}]
    page = Page(analysis_page(dict.fromkeys(names, HOSTILE) | {"mistakes": mistakes}))
    pictures = page.all("img")
    assert [picture["src"] for picture in pictures] == [HOSTILE] * 4
    assert all(picture.keys() == {"src", "alt"} for picture in pictures)
