import json
import math
import re

import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.reports.compare_runs import compare
from lm_jax.reports.comparison_page import (
    differences_of,
    meaning_of_differences,
    remarks_on,
    settings_of,
    table_of,
    write_comparison,
)


def finished(directory, name, seed, bits, family="lstm", curve=(3.0, 2.5), documents=None):
    path = directory / name
    path.mkdir()
    figures = {"bits_per_character": bits, "cross_entropy": bits / 2, "accuracy": 0.5}
    results = {
        "step": 20 if family != "ngram" else 1,
        "parameters": 1000,
        "validation": figures | {"bits_per_character_standard_error": 0.01},
        "timings": {"total_seconds": 7.0},
    }
    (path / "evaluation.json").write_text(json.dumps(results))
    (path / "config.json").write_text(json.dumps({"model": {"family": family}, "seed": seed}))
    data = {"sha256": "ab", "split": "tail", "train": {"tokens": 999}}
    (path / "data.json").write_text(json.dumps(data))
    rows = [{"kind": "train", "step": 20, "tokens": 640}] if family != "ngram" else []
    rows += [
        {
            "kind": "evaluation",
            "step": (i + 1) * (20 // len(curve)),
            **figures,
            "bits_per_character": value,
        }
        for i, value in enumerate(curve)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if documents is not None:
        nats = [bits * math.log(2) * 100 for bits in documents]
        kept = {"step": 20, "nats": nats, "characters": [100] * len(nats)}
        (path / "by_document_validation.json").write_text(json.dumps(kept))
    return path


def test_seeds_are_one_row_with_the_standard_error_of_their_mean(tmp_path):
    paths = [finished(tmp_path, f"lstm-{s}", s, b) for s, b in enumerate((2.0, 2.1, 2.3))]
    paths.append(finished(tmp_path, "counts-0", 0, 1.9, family="ngram", curve=(1.9,)))
    counts, lstm = compare(paths)
    assert (counts.name, counts.trained_on, counts.figures["bits_per_character"]) == (
        "counts",
        999,
        (1.9, 0.01),
    )
    assert (lstm.name, lstm.runs, lstm.trained_on) == ("lstm", 3, 640)
    mean, error = lstm.figures["bits_per_character"]
    assert mean == pytest.approx(6.4 / 3)
    assert error == pytest.approx(math.sqrt((0.1333**2 + 0.0333**2 + 0.1667**2) / 2 / 3), rel=1e-3)
    assert lstm.curve == [(320, 3.0), (640, 2.5)]
    assert [row[0] for row in table_of([counts, lstm])] == ["run", "counts", "lstm"]
    assert table_of([counts, lstm])[1][4] == "1.900 ± 0.010"


def test_steps_before_a_fork_or_an_interruption_count_with_their_tokens_and_their_time(tmp_path):
    for name, starts in {"whole": [0], "forked": [10], "stopped": [0, 10], "late": [0, 20]}.items():
        path = finished(tmp_path, name, 0, 2.0, name)
        clocks = {"whole": (5, 6), "forked": (5, 4), "stopped": (5, 5.5), "late": (5, 6)}[name]
        rows = [
            {"kind": "train", "step": 10 * n, "tokens": 320 * n, "seconds": seconds}
            for n, seconds in enumerate(clocks, 1)
        ]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        attempts = [{"started": 0.0, "step": step} for step in starts]
        (path / "attempts.json").write_text(json.dumps({"attempts": attempts}))
    branch = {"run": "runs/whole", "step": 10, "changes": ["seed: 1 -> 0"]}
    (tmp_path / "forked" / "branch.json").write_text(json.dumps(branch))
    rows = {row.name: row for row in compare(list(tmp_path.iterdir()))}
    assert {row.trained_on for row in rows.values()} == {640}
    # The last start of each took 7 s; 5 s, or 6 s, went by before it.
    assert {name: row.seconds for name, row in rows.items()} == {
        "whole": 7, "forked": 12, "stopped": 12, "late": 13
    }  # fmt: skip
    head = table_of(list(rows.values()))[0]
    assert head[3] == "targets trained on from step 0" and head[-1] == "wall time from step 0, s"
    assert any("forked trained on" in remark for remark in remarks_on(list(rows.values())))
    del rows["forked"]
    assert table_of(list(rows.values()))[0][-1] == "wall time, s"


@pytest.mark.parametrize("known", [True, False])
def test_training_losses_of_other_tokenizers_are_in_bits_or_have_a_note(tmp_path, known):
    for name, kind, tokens in (("fine", "byte", 400), ("coarse", "bpe", 100)):
        path = finished(tmp_path, name, 0, 2.0, name)
        config = {"model": {}, "data": {"tokenizer": {"kind": kind}}, "seed": 0}
        (path / "config.json").write_text(json.dumps(config))
        sizes = {"tokens": tokens, **({"characters": 400} if known else {})}
        data = {"sha256": "ab", "split": "tail", "train": sizes}
        (path / "data.json").write_text(json.dumps(data))
        loss = math.log(2) * 400 / tokens  # of one bit per character
        row = {"kind": "train", "step": 20, "tokens": 640, "loss": loss}
        (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    rows = compare([tmp_path / "fine", tmp_path / "coarse"])
    page = write_comparison(rows, tmp_path / "page").read_text()
    assert ("training loss, bits per character, smoothed" in page) is known
    note = "training loss, nats, smoothed; runs of other tokenizers do not compare"
    assert (note in page) is not known
    if known:
        drawn = [y * row.bits_per_nat for row in rows for _, y in row.training]
        assert drawn == pytest.approx([1.0, 1.0])


def test_runs_of_one_seed_are_rows_of_their_own(tmp_path):
    before, after = (
        finished(tmp_path, name, 0, b) for name, b in (("before", 2.0), ("after", 1.9))
    )
    rows = compare([before, finished(tmp_path, "before-1", 1, 2.1), after])
    assert [(row.name, row.runs) for row in rows] == [("after", 1), ("before", 2)]
    with pytest.raises(UserError, match="before is given twice"):
        compare([before, after, tmp_path / "after" / ".." / "before"])


def test_a_difference_on_the_same_documents_is_found_where_the_errors_overlap(tmp_path):
    random = np.random.default_rng(0)
    hard = random.normal(4.78, 2.8, 60)  # a standard error of 0.37
    worse = hard + 0.23 + random.normal(0, 0.2, 60)
    paths = [
        finished(tmp_path, "a-0", 0, hard.mean(), documents=hard),
        finished(tmp_path, "b-0", 0, worse.mean() - 0.1, "gru", documents=worse - 0.1),
        finished(tmp_path, "b-1", 1, worse.mean() + 0.1, "gru", documents=worse + 0.1),
    ]
    first, second = compare(paths)
    assert (first.name, first.difference, second.name) == ("a", None, "b")
    found = second.difference
    assert found.difference == pytest.approx((worse - hard).mean()) and found.documents == 60
    assert found.low > 0.1 and found.high < 0.4 and found.p_value < 0.001
    head, cells = differences_of([first, second])
    assert head[1] == "bits per character, minus a" and cells[3] == "below 0.001"
    assert settings_of([first, second]) == [["field", "a", "b"], ["model.family", "lstm", "gru"]]


def classified(directory, name, accuracy, correct):
    """A run that classifies: it has no bits per character, and is ranked by its accuracy."""
    path = finished(directory, name, 0, 2.0, name)
    results = json.loads((path / "evaluation.json").read_text())
    results["validation"] = {
        "accuracy": accuracy,
        "accuracy_standard_error": 0.0213,
        "cross_entropy": 0.7,
        "examples": len(correct),
    }
    (path / "evaluation.json").write_text(json.dumps(results))
    kept = {"step": 20, "correct": correct, "targets": [1] * len(correct)}
    (path / "by_document_validation.json").write_text(json.dumps(kept))
    return path


def test_accuracies_are_in_percent_and_their_differences_in_points(tmp_path):
    right = [1] * 24 + [0] * 6
    paths = [
        classified(tmp_path, n, sum(c) / 30, c)
        for n, c in (("a", right), ("b", right[3:] + [0] * 3))
    ]
    rows = compare(paths)
    head, first, second = table_of(rows)
    assert head[3:6] == ["examples trained on", "accuracy, %", "cross-entropy, nats per example"]
    assert (first[4], second[4]) == ("80.0 ± 2.1", "70.0 ± 2.1")
    head, (_, difference, interval, *_) = differences_of(rows)
    assert head[1] == "accuracy, percentage points, minus a"
    low, high = map(float, interval.split(" to "))
    assert float(difference) == pytest.approx(-10) and low < -10 < high < 5
    page = write_comparison(rows, tmp_path / "out").read_text()
    assert ">validation accuracy, %</text>" in page and '"320:50 640:50"' in page
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())[0]["figures"][
        "accuracy"
    ] == [0.8, 0.0213]


def test_one_document_is_named_as_the_reason_why_there_is_no_interval(tmp_path):
    paths = [finished(tmp_path, name, 0, 2.0, name, documents=np.ones(1)) for name in ("a", "b")]
    (remark,) = remarks_on(compare(paths))
    assert "which is one document here" in remark


def test_errors_are_explained_where_there_are_some(tmp_path):
    rows = compare([finished(tmp_path, name, 0, 2.0, name) for name in ("a", "b")])
    assert "± is one standard error" in write_comparison(rows, tmp_path / "out").read_text()
    exact = [
        row._replace(figures={n: (v, None) for n, (v, _) in row.figures.items()}) for row in rows
    ]
    assert "±" not in write_comparison(exact, tmp_path / "out").read_text()


def test_figures_of_different_parts_of_the_split_are_told_apart(tmp_path):
    paths = [finished(tmp_path, name, 0, 2.0, name, documents=np.ones(1)) for name in ("a", "b")]
    assert not any("different parts" in remark for remark in remarks_on(compare(paths)))
    results = json.loads((paths[0] / "evaluation.json").read_text())
    results["validation_sample"] = {"documents": 1, "of": 1, "tokens": 1200, "of_tokens": 3000}
    (paths[0] / "evaluation.json").write_text(json.dumps(results))
    (remark,) = [r for r in remarks_on(compare(paths)) if "different parts" in r]
    assert "a 1,200 tokens" in remark and "b all" in remark


def test_fields_that_only_one_family_has_do_not_differ(tmp_path):
    paths = [finished(tmp_path, name, 0, 2.0, name) for name in ("lstm", "gru", "mlp")]
    for path, own in zip(
        paths, ({"cells": 1, "d": 1}, {"cells": 2, "d": 1}, {"d": 1}), strict=True
    ):
        config = json.loads((path / "config.json").read_text())
        config["model"] |= own
        (path / "config.json").write_text(json.dumps(config))
    settings = {row[0]: row[1:] for row in settings_of(compare(paths))[1:]}
    assert settings == {
        "model.family": ["lstm", "gru", "mlp"],
        "model.cells": ["1", "2", ""],
    }


def test_a_field_that_an_earlier_version_lacked_had_its_default(tmp_path):
    paths = [finished(tmp_path, name, seed, 2.0) for seed, name in enumerate(("old", "new", "far"))]
    for path, windows in zip(paths, ({}, {"windows": "documents"}, {"windows": "x"}), strict=True):
        config = json.loads((path / "config.json").read_text())
        config["model"], config["evaluation"] = {"family": "mlp"}, {"batch_size": 8} | windows
        (path / "config.json").write_text(json.dumps(config))
    rows = compare(paths)
    assert [(row.name, row.runs) for row in rows] == [("old", 2), ("far", 1)]
    assert settings_of(rows)[1:] == [["evaluation.windows", "documents", "x"]]


def test_runs_that_measured_different_samples_are_compared_on_what_both_saw(tmp_path):
    first = finished(tmp_path, "a", 0, 2.0, "a", documents=[1.0, 2.0, 3.0, 5.0])
    second = finished(tmp_path, "b", 0, 2.5, "b", documents=[2.5, 3.1, 9.0])
    file = second / "by_document_validation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"documents": [1, 2, 4]}))
    found = compare([first, second])[1].difference
    assert found.documents == 2 and found.difference == pytest.approx(0.3)


@pytest.mark.parametrize(
    "change",
    [{"step": 10}, {"characters": [100, 100, 99]}],
    ids=["of another step", "of other documents"],
)
def test_sums_that_do_not_belong_together_are_not_compared(tmp_path, change):
    paths = [
        finished(tmp_path, name, 0, 2.0, name, documents=[1.0, 2.0, 3.0]) for name in ("a", "b")
    ]
    assert compare(paths)[1].difference is not None
    (few,) = remarks_on(compare(paths))
    assert few.startswith("With 3 documents, fewer than 20, intervals are too narrow and p-values")
    file = paths[0] / "by_document_validation.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | change))
    (remark,) = remarks_on(compare(paths))
    assert remark.startswith("No interval for b: a run and a need by_document_validation.json")
    assert compare(paths)[1].difference is None and differences_of(compare(paths)) == []
    file.write_text(json.dumps({"step": 20}))
    with pytest.raises(UserError, match="validation.json holds no nats; restore it"):
        compare(paths)


def test_names_stay_apart(tmp_path):
    paths = [finished(tmp_path, name, 0, 2.0, name) for name in ("run-1", "run-2", "lstm-wide")]
    assert sorted(row.name for row in compare(paths)) == ["lstm-wide", "run-1", "run-2"]


def test_the_page_and_the_picture_hold_every_curve(tmp_path):
    paths = [finished(tmp_path, f"{n}-0", 0, 2.0, family=n) for n in ("lstm", "gru", "rnn")]
    page = write_comparison(compare(paths), tmp_path / "out")
    assert (tmp_path / "out" / "comparison.svg").read_text().count("<polyline") == 3
    assert page.read_text().count("<polyline") == 2 * 3  # for wide pages and for narrow ones
    assert len(json.loads((tmp_path / "out" / "comparison.json").read_text())) == 3


def test_a_run_has_one_colour_though_another_has_no_training_curve(tmp_path):
    paths = [finished(tmp_path, n, 0, b, n, (b, b)) for n, b in (("ngram", 1.0), ("lstm", 2.0))]
    with (paths[1] / "metrics.jsonl").open("a") as file:
        for step in (10, 20):
            row = {"kind": "train", "step": step, "tokens": 32 * step, "loss": 3.0}
            file.write(json.dumps(row) + "\n")
    page = write_comparison(compare(paths), tmp_path / "out").read_text()
    curves = re.findall(r'data-name="lstm".*?>\s*<polyline class="line (s\d)"', page)
    assert curves == ["s1"] * 4  # two charts, for wide pages and for narrow ones


def test_the_p_value_is_explained_with_its_limits(tmp_path):
    paths = [finished(tmp_path, n, 0, 2.0, n, documents=[1.0, 2.0]) for n in ("a", "b")]
    rows = compare(paths)
    page = write_comparison(rows, tmp_path / "out").read_text()
    meaning = meaning_of_differences(rows)
    assert meaning in page and "difference from a at least this large" in meaning
    assert "below 0.05" in meaning and "nothing about other seeds" in meaning


def test_a_directory_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        compare([tmp_path])
    edited = finished(tmp_path, "lstm-0", 0, 2.0)
    (edited / "evaluation.json").write_text('{"step": 3, "timings": {}, "parameters": 1}')
    with pytest.raises(UserError, match="evaluation.json holds no validation; restore it"):
        compare([edited])
    values = {"step": 3, "timings": {}, "parameters": 1, "validation": {"cross_entropy": "x"}}
    (edited / "evaluation.json").write_text(json.dumps(values))
    with pytest.raises(
        UserError, match="json: validation.cross_entropy is 'x'; expected a number or null"
    ):
        compare([edited])


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"bits_per_character": None, "tokens": None, "examples": 9},
            "predict examples and tokens",
        ),
        (
            {"cross_entropy": None, "bits_per_character": None},
            "other-0 has an infinite cross-entropy",
        ),
    ],
)
def test_runs_that_do_not_compare_are_refused(tmp_path, change, message):
    paths = [finished(tmp_path, f"{name}-0", 0, 2.0, family=name) for name in ("lstm", "other")]
    for path, changes in zip(paths, ({}, change), strict=True):
        results = json.loads((path / "evaluation.json").read_text())
        found = {"tokens": 9} | results["validation"] | changes
        if "examples" in changes:
            del found["tokens"]
        (path / "evaluation.json").write_text(json.dumps(results | {"validation": found}))
    with pytest.raises(UserError, match=message):
        compare(paths)


@pytest.mark.parametrize("field", ["sha256", "split"])
def test_runs_of_other_data_are_refused(tmp_path, field):
    paths = [finished(tmp_path, f"lstm-{seed}", seed, 2.0) for seed in (0, 1)]
    data = json.loads((paths[1] / "data.json").read_text())
    (paths[1] / "data.json").write_text(json.dumps(data | {field: "other"}))
    with pytest.raises(UserError, match="lstm-1 is measured on other data than .*lstm-0"):
        compare(paths)
