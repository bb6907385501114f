"""Nothing overlaps, leaves its box or lacks a name: on SVG alone, and in Chromium where it is."""

import html
import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lm_jax.reports.compare_runs import compare
from lm_jax.reports.comparison_page import write_comparison
from lm_jax.reports.html import render
from lm_jax.reports.run_report import write_report
from lm_jax.reports.svg_charts import Series, bar_chart, line_chart, scatter_chart, surface_chart
from lm_jax.reports.svg_tree import tree_chart
from lm_jax.sweeps.report import write_sweep_page
from lm_jax.sweeps.results import write_results
from tests.reports.pictures import charts_of, faults_of
from tests.reports.test_compare_runs import finished
from tests.sweeps.sweep_rows import grid_rows
from tests.sweeps.test_report import final_loss

WIDTHS = (1200, 400)
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def run_page(directory):
    """A run with long names, large numbers and small ones, and a map of 150 tokens."""
    random = np.random.default_rng(0)
    rows = [
        {
            "kind": "train",
            "step": 400 * i,
            "loss": 7 / i**0.2,
            "learning_rate": 1e-4 / i,
            "gradient_norm": 1e6 / i,
            "tokens_per_second": 20_000 + 300 * i,
        }
        for i in range(1, 90)
    ]
    rows += [{"kind": "evaluation", "step": 12_000 * i, "cross_entropy": 6 - i} for i in (1, 2, 3)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {
        "step": 36_000,
        "parameters": 1_234_567_890,
        "validation": {
            "bits_per_character": 1.5,
            "cross_entropy": 3.2,
            "cross_entropy_standard_error": 0.1,
            "accuracy": 0.4,
        },
        "baselines": {"a baseline with a very long name indeed": 2.0, "xz -9": 9.0},
        "timings": {"tokens_per_second": 1_234_567.0},
        "translation": {"bleu": 15.2, "bleu_standard_error": 0.9, "chrf": 40.0, "sentences": 100},
        "goodput": {"steps": 100.0, "waiting for the input of the data pipeline": 3.0, "share": 97},
    }
    signature = "nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:char|smooth:exp|version:2.6.0"
    results["translation"] |= {"bleu_signature": signature, "chrf_signature": signature}
    (directory / "evaluation.json").write_text(json.dumps(results))
    words = [f"·token{i}" for i in range(100)] + list('=mMW@_"') + [f'{i}__"' for i in range(43)]
    embedding = {
        "words": words,
        "points": random.normal(0, 1, (150, 2)).tolist(),
        "neighbours": {words[0]: words[1:7]},
    }
    pair = {"source": "a " * 40, "translation": "b" * 90, "reference": "c " * 40}
    inspection = {"embedding": embedding, "translations": [pair]}
    (directory / "inspection.json").write_text(json.dumps(inspection))
    config = {"model": {"family": "transformer", "d_model": 96}, "data": {"kind": "text"}}
    (directory / "config.json").write_text(json.dumps(config))
    return write_report(directory)


def comparison_page(directory):
    """Eight runs with long names."""
    names = [f"a-run-with-a-long-name-{'x' * i}" for i in range(8)]
    paths = [
        finished(directory, f"{name}-0", 0, 2 + i / 9, name, documents=[2.0 + i, 2.1, 2.5])
        for i, name in enumerate(names)
    ]
    return write_comparison(compare(paths), directory / "out")


def law_page(directory):
    """Predictions and parameters with their intervals."""
    row = ("1e+22", "n", "5.1001e+09", "4.5582e+09 to 5.5465e+09")
    page = render(
        "scaling_law.html",
        title="Scaling law",
        formula="L = E + A/N^alpha",
        num_points=35,
        figures="",
        fitted=[("alpha", "0.34", "0.336 to 0.345")],
        predictions=[row] * 3,
        quality=[("rms residual", "0.0015")],
        edges="",
        groups=None,
        provenance=f"From runs.csv, SHA-256 {64 * '7'}",
    )
    path = directory / "law.html"
    path.write_text(page, encoding="utf-8")
    return path


def sweep_page(directory):
    """Three widths with three rates and three seeds; some failed."""
    write_results(directory, grid_rows(final_loss, (64, 128, 256), seeds=range(3)))
    return write_sweep_page(directory)[0]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    makers = {"run": run_page, "comparison": comparison_page, "law": law_page}
    if find_spec("matplotlib"):
        makers["sweep"] = sweep_page
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in makers.items()}


def test_the_texts_of_all_charts_stand_clear(pages):
    charts = [chart for path in pages.values() for chart in charts_of(path.read_text())]
    assert len(charts) == 13  # eight, five of them for wide and for narrow pages
    assert [fault for chart in charts for fault in faults_of(chart)] == []


@pytest.mark.parametrize("largest", [3e-6, 0.07, 12, 12_345, 999_999, 3.2e9])
def test_axes_of_any_size_stand_clear(largest):
    curves = [Series(f"curve {i}", [0, largest], [largest / 3, largest]) for i in range(5)]
    label = "training loss: cross-entropy of labels smoothed by 0.1, nats"
    for width in (320, 360, 960):
        for text in ("loss, nats", label):
            (chart,) = charts_of(line_chart(curves, "tokens", text, width))
            shown = " ".join(each.text or "" for each in chart.iter("text"))
            assert faults_of(chart) == [] and text in shown  # on several lines, never cut


def test_charts_of_every_kind_have_names():
    made = [
        bar_chart([("a", 1.0, False)], "bits"),
        scatter_chart(["a", "b"], [[0, 0], [1, 1]])[0],
        surface_chart([[0.5]], (-0.5, 1.5), [[0, 0], [1, 1]], [0, 1]),
    ]
    assert [fault for svg in made for chart in charts_of(svg) for fault in faults_of(chart)] == []
    assert 'aria-label="tree of 1 prefix"' in tree_chart([(-1, "a", "", False)])


def test_the_checks_see_faults():
    texts = '<text x="5" y="20">a long text</text><text x="30" y="22">another</text>'
    (chart,) = charts_of(f'<svg viewBox="0 0 60 40">{texts}</svg>')
    faults = faults_of(chart)
    assert "no name" in faults and "'a long text' is outside" in faults
    assert "'a long text' and 'another' overlap" in faults


def in_browser(pages, directory):
    """Returns the faults that a browser sees on each page at each width."""
    frames = "".join(
        f'<iframe title="{name} at {width}" style="width: {width}px; height: 900px" '
        f'src="{path.as_uri()}"></iframe>'
        for name, path in pages.items()
        for width in WIDTHS
    )
    script = Path(__file__).with_name("layout.js").read_text()
    frame = directory / "frames.html"
    frame.write_text(f"<!doctype html><meta charset=utf-8>{frames}<script>{script}</script>")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={directory / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
        frame.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return json.loads(html.unescape(re.search('<pre id="faults">(.*?)</pre>', shown)[1]))


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)")
def test_a_browser_shows_every_page_without_faults(pages, tmp_path):
    broken = tmp_path / "broken.html"
    narrow = '<table><tr><td style="width: 1px; word-break: break-all">vertical text</td></table>'
    broken.write_text(f'<svg viewBox="0 0 9 9"><text x="5" y="5">outside</text></svg>{narrow}')
    found = in_browser(pages | {"broken": broken}, tmp_path)
    assert "a chart has no name" in found.pop("broken at 400")
    assert "vertical text runs vertically" in found["broken at 1200"]
    assert "outside is outside its chart" in found.pop("broken at 1200")
    assert found == {f"{name} at {width}": [] for name in pages for width in WIDTHS}
