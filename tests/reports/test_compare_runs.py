import json
import math

import pytest

from lm_jax.reports.compare_runs import compare, table_of, write_comparison


def finished(directory, name, seed, bits, family="lstm", curve=(3.0, 2.5)):
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


def test_the_page_and_the_picture_hold_every_curve(tmp_path):
    paths = [finished(tmp_path, f"{n}-0", 0, 2.0, family=n) for n in ("lstm", "gru", "rnn")]
    page = write_comparison(compare(paths), tmp_path / "out")
    for text in (page.read_text(), (tmp_path / "out" / "comparison.svg").read_text()):
        assert text.count("<polyline") == 3
    assert len(json.loads((tmp_path / "out" / "comparison.json").read_text())) == 3


def test_a_directory_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished run"):
        compare([tmp_path])
    edited = finished(tmp_path, "lstm-0", 0, 2.0)
    (edited / "evaluation.json").write_text('{"step": 3, "timings": {}, "parameters": 1}')
    with pytest.raises(ValueError, match="evaluation.json holds no validation; restore it"):
        compare([edited])
    values = {"step": 3, "timings": {}, "parameters": 1, "validation": {"cross_entropy": "x"}}
    (edited / "evaluation.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="json: validation.accuracy is None; expected a number"):
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
    with pytest.raises(ValueError, match=message):
        compare(paths)


@pytest.mark.parametrize("field", ["sha256", "split"])
def test_runs_of_other_data_are_refused(tmp_path, field):
    paths = [finished(tmp_path, f"lstm-{seed}", seed, 2.0) for seed in (0, 1)]
    data = json.loads((paths[1] / "data.json").read_text())
    (paths[1] / "data.json").write_text(json.dumps(data | {field: "other"}))
    with pytest.raises(ValueError, match="lstm-1 is measured on other data than .*lstm-0"):
        compare(paths)
