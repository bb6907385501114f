"""Files of a work directory, written and read back."""

import dataclasses
import errno
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest

from lm_jax.build import build_experiment
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.config.serialization import to_dict
from lm_jax.data import Dataset
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import PositionSums
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.runs import evaluate, page, recorder, train
from lm_jax.runs.workdir import (
    add_test_figures,
    read_by_position,
    read_experiment,
    read_sizes,
    refuse_foreign_files,
    refuse_other_data,
    results_of,
    write_by_position,
)
from lm_jax.telemetry.goodput import TimeSheet
from tests.experiments import tiny


@pytest.mark.parametrize("name", ["samples.txt", "report.html", "data.json"])
def test_files_of_a_directory_without_a_run_are_not_overwritten(name, tmp_path):
    refuse_foreign_files(tmp_path / "new")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(UserError, match=f"holds no run but has {name}, which a run would overwr"):
        refuse_foreign_files(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    refuse_foreign_files(tmp_path)


def test_a_fork_that_was_not_begun_is_a_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no run but has metrics.jsonl"):
        refuse_foreign_files(tmp_path)
    (tmp_path / "branch.json").write_text("{}")
    refuse_foreign_files(tmp_path)


def test_a_run_that_was_killed_while_it_began_may_begin_again(tmp_path):
    (tmp_path / "data.json").write_text('{"fingerprint": "ab"}')
    refuse_foreign_files(tmp_path)


def test_what_is_written_is_read_back(tmp_path):
    sums = PositionSums(np.array([6.0, 0.0, 5.0]), np.array([3.0, 0.0, 2.0]))
    path = write_by_position(tmp_path, "validation", sums, 20, EvaluationConfig())
    record = json.loads(path.read_text())
    assert record["nats_by_position"] == [2.0, None, 2.5]
    assert (record["cross_entropy"], record["tokens"]) == (11 / 5, 5)
    found = read_by_position(tmp_path, 20)
    np.testing.assert_array_equal(found, sums)
    assert read_by_position(tmp_path, 20, "train") is None
    path.write_text("{")
    assert read_by_position(tmp_path, 20) is None


@pytest.mark.parametrize(
    "eval_config",
    [
        EvaluationConfig(stride=2),
        EvaluationConfig(context_length=4),
        EvaluationConfig(windows="bare"),
    ],
    ids=["strided", "of another context", "of other targets"],
)
def test_a_measurement_of_other_windows_or_another_step_is_not_read(eval_config, tmp_path):
    sums = PositionSums(np.array([6.0, 5.0]), np.array([3.0, 2.0]))
    write_by_position(tmp_path, "validation", sums, 20, eval_config)
    assert read_by_position(tmp_path, 20) is None
    write_by_position(tmp_path, "validation", sums, 10, EvaluationConfig())
    assert read_by_position(tmp_path, 20) is None


@pytest.mark.parametrize(
    ("step", "stride", "is_comparable"), [(3, 0, True), (2, 0, False), (3, 8, False)]
)
def test_test_figures_join_the_results_of_a_run(step, stride, is_comparable, tmp_path):
    eval_config, figures = EvaluationConfig(stride=stride), {"cross_entropy": 2.5}
    assert add_test_figures(tmp_path, figures, step, eval_config) == {}
    assert not list(tmp_path.iterdir())  # it has not ended
    results = {"step": 3, "validation": {"cross_entropy": 2.0}}
    (tmp_path / "evaluation.json").write_text(json.dumps(results))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(tiny())))
    found = add_test_figures(tmp_path, figures, step, eval_config)
    assert found == (results["validation"] if is_comparable else {})
    written = json.loads((tmp_path / "evaluation.json").read_text())
    windows = {"stride": stride, "context_length": 0, "windows": "documents"}
    test = {"step": step, **windows, "cross_entropy": 2.5}
    assert written == results | {"test": test}


def fail_after_writing(directory, time_sheet):
    with pytest.raises(KeyError), train._removing_failed_start(directory, time_sheet):
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text("{}")
        raise KeyError


def test_a_run_that_fails_before_its_first_step_leaves_what_was_there(tmp_path):
    (tmp_path / "runs").mkdir()
    fail_after_writing(tmp_path / "runs" / "deep" / "run", TimeSheet(time.monotonic()))
    assert not list((tmp_path / "runs").iterdir())
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    fail_after_writing(tmp_path / "runs", TimeSheet(time.monotonic()))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["notes.txt"]


def test_a_run_that_took_steps_or_was_begun_before_keeps_its_files(tmp_path):
    stepped = TimeSheet(time.monotonic() - 1)
    stepped.record_time("steps")
    for time_sheet in (stepped, TimeSheet(time.monotonic())):  # the second one finds config.json
        fail_after_writing(tmp_path / "run", time_sheet)
        assert (tmp_path / "run" / "config.json").exists()


def test_a_loss_that_cannot_be_traced_leaves_no_work_directory(tmp_path, monkeypatch):
    def broken(*args):
        assert (tmp_path / "run" / "config.json").exists()
        raise TypeError("not traced")

    monkeypatch.setattr(train, "_open", broken)
    experiment = tiny(mesh="auto", model__d_model=4)
    experiment.data.tokenizer.kind = "byte"
    with pytest.raises(TypeError, match="not traced"):
        train.train(experiment, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__d_ff": 10**9}, "parameters and optimizer state take 108 GB per process"),
        ({"training__batch_size": 10**9}, r"batch_size is 1000000000: .* take 128 GB"),
        ({"evaluation__batch_size": 10**9}, r"batch_size is 1000000000: .* take 128 GB"),
    ],
)
def test_what_exceeds_the_memory_is_refused(fields, message, monkeypatch):
    for module in (train, evaluate):
        monkeypatch.setattr(module, "host_memory", lambda: 100e9)
    experiment = tiny(mesh="auto", model__d_model=4, **fields)
    built = build_experiment(experiment, {"vocab_size": 257})
    with pytest.raises(UserError, match=message):
        train.check(built, Dataset(None, None, {}, None))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model", None, "model is None; expected an object with its fields"),
        ("data", [], r"data is \[\]; expected an object with its fields"),
        ("model", {"family": ["mlp"]}, r"model.family is \['mlp'\]; expected one of transformer, "),
        ("data", {"kind": {}}, "data.kind is {}; expected one of text, "),
        ("training", {"steps": 3}, "unknown field 'training.steps'"),
        ("training", [], r"training is \[\]; expected an object with its fields"),
        ("training", {"num_steps": "9"}, "training.num_steps is '9'; expected an integer"),
        ("seed", True, "seed is True; expected an integer"),
        ("optimizer", {"beta1": None}, "optimizer.beta1 is None; expected a number"),
        ("tensorboard", 1, "tensorboard is 1; expected true or false"),
        ("data", {"path": "a\0b"}, r"data.path is 'a\\x00b'; expected a text without NUL"),
        ("data", {"tokenizer": "bpe"}, "data.tokenizer is 'bpe'; expected an object"),
    ],
)
def test_an_edited_configuration_is_named_with_its_file(part, value, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(tiny()) | {part: value}))
    with pytest.raises(UserError, match=f"config.json: {message}"):
        read_experiment(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "f2"}, "the text of .* is the same, but it is cut or cleaned otherwise"),
        (
            {"fingerprint": "f2", "sha256": "b" * 64},
            r"the data changed .* \(SHA-256 a{12}, now b{12}",
        ),
    ],
)
def test_other_text_is_told_from_the_same_text_prepared_otherwise(changes, message, tmp_path):
    facts = {"fingerprint": "f1", "sha256": "a" * 64}
    (tmp_path / "data.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=message):
        refuse_other_data(Dataset(None, None, facts | changes, None), tmp_path)


def test_a_run_that_grew_from_one_step_has_not_ended_but_counting_has(tmp_path):
    grown = tiny(training__num_steps=3, schedule__warmup_steps=0)
    counted = dataclasses.replace(grown, model=NgramConfig())
    alone = tiny(training__num_steps=1, schedule__warmup_steps=0)
    timings = {"timings": {"total_seconds": 1.0}, "validation": {"cross_entropy": 2.0}}
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 1} | timings))
    (tmp_path / "data.json").write_text(json.dumps({"sizes": {"vocab_size": 257}}))
    for experiment, has_ended in ((grown, False), (counted, True), (alone, True)):
        (tmp_path / "config.json").write_text(json.dumps(to_dict(experiment)))
        assert (results_of(experiment, tmp_path) is not None) == has_ended


def counted(folder):
    """An experiment that counts words of a small file."""
    (folder / "words.txt").write_text("some words that are counted, one by one\n" * 99)
    experiment = dataclasses.replace(tiny(mesh="auto"), model=NgramConfig())
    experiment.data.source, experiment.data.path = "files", str(folder / "words.txt")
    experiment.data.split, experiment.data.tokenizer.kind = "tail", "byte"
    return experiment


def test_a_run_is_finished_once_it_has_its_page_which_is_mended(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    experiment, run = counted(tmp_path), tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(page, "write_report", full)
        train.train(experiment, run)
    assert not (run / "evaluation.json").exists()
    tokens = {"after": "a", "next": None, "tokens": ["b"], "probabilities": [math.nan]}
    found = {"next_tokens": {"text": "t", "source": None, "steps": [tokens]}, "labels": ["x"]}
    monkeypatch.setattr(recorder, "inspect", lambda *_: found)
    results = train.train(experiment, run)
    assert json.loads((run / "inspection.json").read_text()) == {"labels": ["x"]}
    whole = (run / "report.html").read_text()
    assert "cross-entropy" in whole
    for damage in (Path.unlink, lambda path: path.write_text("")):
        damage(run / "report.html")
        assert train.train(experiment, run)["validation"] == results["validation"]
        assert (run / "report.html").read_text() == whole


def test_a_finished_run_whose_data_is_gone_is_finished_and_has_its_page(tmp_path):
    """A script that gives the command again until it succeeds would never end."""
    experiment, run = counted(tmp_path), tmp_path / "run"
    results = train.train(experiment, run)
    whole = (run / "report.html").read_text()
    for path in (tmp_path / "words.txt", run / "report.html"):
        path.unlink()
    assert train.train(experiment, run)["validation"] == results["validation"]
    assert (run / "report.html").read_text() == whole
    (run / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"no file matches .*words\.txt.* name its new place"):
        train.train(experiment, run)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "data.json holds no sizes of the data; restore it"),
        ({"sizes": None}, "data.json: sizes is None; expected an object; restore it"),
        ({"sizes": {"vocab_size": "257"}}, "sizes.vocab_size is '257'; expected an integer"),
    ],
)
def test_sizes_that_are_no_numbers_are_refused(facts, message, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=message):
        read_sizes(tmp_path)
