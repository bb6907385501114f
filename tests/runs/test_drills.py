"""Drills of runs, and what judges them."""

import json
import random

import numpy as np
import pytest

from lm_jax.config.experiment import CheckpointConfig, Experiment
from lm_jax.data import ImageConfig
from lm_jax.runs.drills import judge, readers
from lm_jax.runs.drills.attacks import IDENTICAL, REFUSED, Outcome, flipped
from lm_jax.runs.drills.report import applies, rows_of
from lm_jax.runs.drills.site import Ended
from lm_jax.training.checkpoints import Checkpoints
from tests.launch.programs import TINY
from tests.launch.programs import run as run_program


def _finished_run(workdir, value=1.0):
    with Checkpoints(workdir / "checkpoints", CheckpointConfig(keep_last=2)) as checkpoints:
        checkpoints.save(1, {"params": {"x": np.zeros(9, np.float32)}})
        checkpoints.save(2, {"params": {"x": np.full(9, value, np.float32)}})
    row = {"step": 2, "kind": "train", "loss": 1.5, "tokens_per_second": value}
    (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    results = {"step": 2, "timings": {"total_seconds": value}}
    (workdir / "evaluation.json").write_text(json.dumps(results))
    (workdir / "report.html").write_text("<html></html>\n")
    return workdir


def test_runs_that_differ_in_times_alone_are_the_same(tmp_path):
    reference = judge.read(_finished_run(tmp_path / "a"))
    other = _finished_run(tmp_path / "b")
    (other / "evaluation.json").write_text('{"step": 2, "timings": {"total_seconds": 9}}')
    assert judge.difference(other, reference) == ""


def test_each_kind_of_difference_is_found(tmp_path):
    reference = judge.read(_finished_run(tmp_path / "a"))
    last_bit = float(np.nextafter(np.float32(1), np.float32(2)))
    found = judge.difference(_finished_run(tmp_path / "b", last_bit), reference)
    assert "arrays" in found
    for name, content in {
        "metrics.jsonl": '{"step": 2, "kind": "train", "loss": 1.25}\n',
        "evaluation.json": '{"step": 3}',
        "report.html": "<html>",
    }.items():
        other = _finished_run(tmp_path / name)
        (other / name).write_text(content)
        assert judge.difference(other, reference).startswith(name)
    other = _finished_run(tmp_path / "damaged")
    for path in (other / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(flipped(path.read_bytes() or b"0", random.Random(0)))
    assert judge.difference(other, reference) == judge.NOTICED


def test_a_flip_changes_one_bit():
    content = bytes(range(256))
    found = flipped(content, random.Random(0))
    assert sum((a ^ b).bit_count() for a, b in zip(content, found, strict=True)) == 1


def test_how_a_command_ended_is_told_apart():
    assert judge.fault(Ended(None, "")) == "hung"
    assert judge.fault(Ended(1, "Traceback (most recent call last)\nKeyError")).startswith("trace")
    assert judge.fault(Ended(1, "error: no space")) == ""
    assert judge.refusal(Ended(1, "a note\nerror: no space\n")) == "no space"
    assert judge.refusal(Ended(1, "error: one\nerror: two\n")) == ""
    assert judge.refusal(Ended(0, "error: one\n")) == ""


def test_the_table_counts_outcomes():
    outcomes = [Outcome("kill", "", verdict) for verdict in (IDENTICAL, REFUSED, "hung", "hung")]
    assert rows_of(outcomes)[1] == ["kill", "4", "1", "1", "0", "2"]


def test_an_output_is_the_old_one_or_the_new_one_or_missing(tmp_path):
    place = readers._Place(None, tmp_path)
    place.workdir.mkdir()
    (place.workdir / "evaluation.json").write_text("old")
    before = place.files()
    made = {"run/evaluation.json": b"new", "output/texts.json": b"{}"}
    command = readers._Command("texts", "launch.evaluate", [], made=made)
    (tmp_path / "output").mkdir()
    for name in (".texts.json.1.partial", "texts.kept.jsonl"):  # unfinished
        (tmp_path / "output" / name).write_text("{")
    (tmp_path / "stdout").write_text("half a li")
    assert readers._partial(place, before, command) == ""
    (place.workdir / "evaluation.json").write_text("new")
    assert readers._partial(place, before, command) == ""
    (tmp_path / "output" / "texts.json").write_text("{")
    assert readers._partial(place, before, command).startswith("output/texts.json is neither")
    (tmp_path / "output" / "texts.json").unlink()
    (place.workdir / "evaluation.json").unlink()
    assert readers._partial(place, before, command) == "run/evaluation.json is missing"


@pytest.mark.slow
def test_a_drill_of_every_attack_finds_nothing_lost(tmp_path):
    attacks = "kill:2,stop:1,pause:1,imports:1,second:1,disk:8,arrays:5,caches:2,files:4,failing:2,"
    attacks += "slow:1,clock:1,data:1,evaluate:4,generate:4,changing:2"
    status, out, err = run_program(
        "launch.drill",
        *TINY,
        "--config.checkpoint.keep_last=2",
        "--config.data.source=files",
        "--config.data.path=docs/extending",
        "--config.evaluation.baselines=false",
        "--config.tensorboard=true",
        f"--workdir={tmp_path / 'drill'}",
        f"--attacks={attacks}",
        f"--output={tmp_path / 'drill.json'}",
    )
    assert status == 0, out + err
    assert len(json.loads((tmp_path / "drill.json").read_text())) == 41


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        (Experiment(), {"evaluate", "generate"}),
        (Experiment(objective="classification", data=ImageConfig()), set()),
    ],
)
def test_only_readers_of_running_text_are_attacked(experiment, names):
    assert {name for name in ("evaluate", "generate") if applies(name, experiment)} == names
