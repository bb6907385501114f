"""The page of a run: what is on one axis, which settings come first, what is left out."""

import html
import json
import re

import pytest

from lm_jax.config.serialization import to_dict
from lm_jax.reports.run_report import write_report
from lm_jax.runs.page import write_missing_page
from tests.experiments import tiny
from tests.reports.pages import Page


def report(directory, steps=10, loss_note="", config=None, **results):
    rows = [{"kind": "train", "step": i + 1, "loss": 3.0 - i / steps} for i in range(steps)]
    rows.append({"kind": "evaluation", "step": steps, "cross_entropy": 8.0})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "config.json").write_text(json.dumps(config or {}))
    (directory / "evaluation.json").write_text(json.dumps(results))
    return write_report(directory, loss_note).read_text()


def names_of(text):
    """The names of the curves of each chart, as wide pages show it."""
    charts = re.sub('<div class="slim-only">.*?</div>', "", text, flags=re.DOTALL).split("<svg")[1:]
    return [
        [g["data-name"] for g in Page("<svg" + c.split("</svg>")[0] + "</svg>").all("g")]
        for c in charts
    ]


def test_losses_of_two_definitions_have_two_charts(tmp_path):
    assert names_of(report(tmp_path))[0] == ["training", "validation"]
    first, second = names_of(report(tmp_path, loss_note="negative sampling"))[:2]
    assert (first, second) == (["training"], ["validation"])
    smoothed = {"training": {"label_smoothing": 0.1}}
    first, second = names_of(report(tmp_path, config=smoothed))[:2]
    assert (first, second) == (["training"], ["validation"])


@pytest.mark.parametrize("damage", ["changed", "cut", "deleted"])
def test_the_page_of_a_finished_run_is_written_anew_where_it_is_damaged(tmp_path, damage):
    good = report(tmp_path)
    path, experiment = tmp_path / "report.html", tiny()
    written = path.stat().st_mtime_ns, path.stat().st_ino
    write_missing_page(tmp_path, experiment)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    if damage == "deleted":
        path.unlink()
    else:
        path.write_text(good.replace("loss", "l0ss", 1) if damage == "changed" else good[:999])
    write_missing_page(tmp_path, experiment)
    assert path.read_text() == good


def test_measures_have_their_units_and_the_page_says_what_is_better(tmp_path):
    validation = {"cross_entropy": 3.2, "accuracy": 0.2099, "tokens": 14_656}
    validation |= {"accuracy_standard_error": 0.0075, "cross_entropy_standard_error": None}
    text = report(
        tmp_path,
        validation=validation,
        parameters=2_173_056,
        config={"objective": "causal_lm", "model": {"family": "mlp"}, "data": {"source": "files"}},
    )
    about = "model: mlp; parameters: 2,173,056; objective: causal_lm; data: files. Losses"
    assert about in text and "lower is better" in text
    assert "<strong>2.17M</strong>" in text
    assert "<th>accuracy, %</th><td>20.99 ± 0.75</td>" in text
    assert "<th>cross-entropy, nats per token</th><td>3.2</td>" in text
    assert ">cross-entropy, nats per token</text>" in text  # of the chart


def test_the_sources_of_a_mixture_have_a_row_and_a_curve_each(tmp_path):
    figures = {"cross_entropy": 3.25, "accuracy": 0.5, "tokens": 1_200, "perplexity": 25.79}
    sources = {"prose": figures, "step": figures | {"tokens": 7}}
    text = report(tmp_path, validation=figures | {"sources": sources})
    cells = re.sub(' class="number"', "", text)
    assert "<td>prose</td><td>1,200</td><td>3.25</td><td>25.79</td><td>50.0</td>" in cells
    assert ["prose", "step"] not in names_of(text)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for step in (1, 2):
            row = {"kind": "evaluation", "step": step, "cross_entropy": 3.0, "sources": sources}
            file.write(json.dumps(row) + "\n")
    assert ["prose", "step"] in names_of(write_report(tmp_path).read_text())


def test_an_auxiliary_loss_has_a_row_and_a_chart_of_training_and_validation(tmp_path):
    validation = {"cross_entropy": 3.25, "tokens": 7, "auxiliary": {"z_loss": 0.125}}
    text = report(tmp_path, validation=validation)
    assert "<th>auxiliary.z_loss</th><td>0.125</td>" in text and ">z loss</text>" not in text
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for step in (1, 2):
            row = {"kind": "train", "step": step, "loss": 3.0, "z_loss": 0.5 / step}
            file.write(json.dumps(row) + "\n")
            row = {"kind": "evaluation", "step": step, "auxiliary": {"z_loss": 0.25}}
            file.write(json.dumps(row) + "\n")
    text = write_report(tmp_path).read_text()
    assert ">z loss</text>" in text
    assert names_of(text).count(["training", "validation"]) == 2  # the loss and the term


def test_the_data_is_a_sentence_and_folded_facts_without_empty_ones(tmp_path):
    data = {"source": "digits", "path": "", "sizes": {"num_classes": 10}, "summary": "1,617 images"}
    (tmp_path / "data.json").write_text(json.dumps(data))
    section = report(tmp_path).split("<h2>Data")[1].split("</section>")[0]
    sentence, folded = section.split("<details>")
    assert "<p>1,617 images</p>" in sentence and "2 facts" in folded
    assert "<th>sizes, num classes</th><td>10</td>" in folded and "path" not in folded


def test_shares_of_the_wall_time_are_in_percent(tmp_path):
    goodput = {"steps": 1.0, "starting": 2.0, "share": 1 / 3}
    text = report(tmp_path, goodput=goodput, timings={"total_seconds": 3.0})
    assert ">33.3%</text>" in text and ">66.7%</text>" in text
    assert ">share of 3.00 seconds, from the start of this process" in text
    assert "<th>total seconds</th><td>3.00</td>" in text


def test_a_command_is_not_broken_inside_a_flag(tmp_path):
    command = "python -m launch.train --config=configs/<a>.py --config.model.num_layers=2 a--b "
    command += "'--config.data.path=*.md'"
    (tmp_path / "environment.json").write_text(json.dumps({"command": command}))
    text = report(tmp_path)
    flags = re.findall('<span class="flag">(.*?)</span>', text)
    assert flags == [
        "--config=configs/&lt;a&gt;.py",
        "--config.model.num_layers=2",
        "&#39;--config.data.path=*.md&#39;",
    ]
    assert html.unescape(re.sub("<.*?>", "", text)).count(command) == 1


def test_a_short_run_has_no_smoothed_curve_over_its_own(tmp_path):
    assert names_of(report(tmp_path, 50))[0] == ["training", "validation"]
    assert names_of(report(tmp_path, 200))[0] == ["training", "training, smoothed", "validation"]


def test_changed_settings_come_first_and_defaults_are_folded(tmp_path):
    config = json.loads(json.dumps(to_dict(tiny(schedule__peak_learning_rate=0.125))))
    text = report(tmp_path, config=config).split("<h2>Configuration")[1]
    shown, folded = text.split("<details>")
    assert "<th>schedule.peak_learning_rate</th><td>0.125</td>" in shown
    assert "<th>model.d_model</th><td>32</td>" in shown and "<th>model.family</th>" in shown
    assert "optimizer.beta2" in folded.split("</details>")[0] and "optimizer.beta2" not in shown
    assert shown.count("<tr>") + folded.split("</details>")[0].count("<tr>") > 60


def test_settings_of_a_family_that_is_gone_are_all_shown(tmp_path):
    text = report(tmp_path, config={"model": {"family": "gone.py:FAMILY", "width": 3}})
    assert "<th>model.width</th><td>3</td>" in text and "<details>" not in text


def test_translations_and_their_scores_come_first(tmp_path):
    pair = {"source": "two dogs", "translation": "zwei Hunde", "reference": "zwei Hunde <b>"}
    (tmp_path / "inspection.json").write_text(json.dumps({"translations": [pair]}))
    scores = {"bleu": 15.23, "bleu_standard_error": 0.91, "sentences": 100}
    scores |= {"bleu_signature": "nrefs:1|tok:char", "bleu_remark": "the references are Thai"}
    validation = {"bits_per_character": 1.5, "cross_entropy": 2.0}
    text = report(tmp_path, translation=scores, validation=validation, baselines={})
    assert text.index("<strong>15.2</strong><span>BLEU") < text.index("bits per character")
    assert text.index("zwei Hunde &lt;b&gt;") < text.index("<h2>Training")
    assert "<td>15.23 ± 0.91</td>" in text and "beside baselines" not in text
    assert "the references are Thai." in text and "<code>nrefs:1|tok:char</code>." in text


def test_vectors_and_their_scores_come_before_losses(tmp_path):
    embedding = {"words": ["a", "b", "c"], "points": [[0, 0], [1, 0], [0, 1]]}
    embedding["neighbours"] = {"king": ["queen"]}
    (tmp_path / "inspection.json").write_text(json.dumps({"embedding": embedding}))
    report(tmp_path, validation={"accuracy": 0.0811, "cross_entropy": 5.1, "pairs": 9})
    text = write_report(tmp_path, "negative sampling", vectors_first=True).read_text()
    order = ["<h2>Word vectors", "--similarities=FILE", "<code>queen", "<h2>Training", "<h2>Valid"]
    assert [text.index(each) for each in order] == sorted(text.index(each) for each in order)
    assert "<span>accuracy" not in text and "<th>accuracy, %</th><td>8.1</td>" in text
    assert text.count("<h2>Nearest neighbours") == 1

    scores = {
        "step": 400,
        "similarities": {"ws353.tsv": {"spearman": 0.2261, "pairs": 310, "of": 353}},
        "analogies": {"family.txt": {"right": 75, "asked": 240, "of": 506}},
    }
    (tmp_path / "word_vectors.json").write_text(json.dumps(scores))
    text = write_report(tmp_path, "negative sampling", vectors_first=True).read_text()
    assert "<strong>0.226</strong><span>correlation with ws353.tsv" in text
    assert "<strong>31.2%</strong><span>analogies of family.txt" in text
    cells = re.sub(' class="number"', "", text)
    assert "<td>0.226 ± 0.055</td><td>310 of 353</td>" in cells  # (1 - r^2) / sqrt(n - 3), about
    assert "<td>31.2 ± 3.0</td><td>240 of 506</td>" in cells  # sqrt(p (1 - p) / n)
    assert "Measured at step 400" in text and "--similarities=FILE" not in text


def test_figures_have_the_digits_of_their_errors_and_the_sign_is_explained(tmp_path):
    validation = {"cross_entropy": 4.779123, "cross_entropy_standard_error": 0.36612}
    text = report(tmp_path, validation=validation)
    assert "<td>4.78 ± 0.37</td>" in text and "± is one standard error" in text
