"""Drills of runs, and what judges them."""

import json
import os
import random
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from lm_jax.config.experiment import CheckpointConfig, Experiment
from lm_jax.data import ImageConfig, ParallelTextConfig
from lm_jax.runs.drills import judge, strikes
from lm_jax.runs.drills.attacks import IDENTICAL, REFUSED, Outcome, flipped
from lm_jax.runs.drills.programs import PROGRAMS, Command, Place
from lm_jax.runs.drills.report import applies, rows_of
from lm_jax.runs.drills.site import Ended, Job
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


def _place(tmp_path, program, made):
    """Returns a place with a run, and a command that makes these files."""
    place = Place(None, tmp_path)
    place.workdir.mkdir()
    (place.workdir / "evaluation.json").write_text("old")
    return place, Command("a command", PROGRAMS[program], [], made=made)


def test_an_output_is_the_old_one_or_the_new_one_or_missing(tmp_path):
    made = {"run/evaluation.json": b"new", "output/texts.json": b"{}"}
    place, command = _place(tmp_path, "evaluate", made)
    before = place.files()
    (tmp_path / "output").mkdir()
    for name in (".texts.json.1.partial", "texts.kept.jsonl"):  # unfinished
        (tmp_path / "output" / name).write_text("{")
    (tmp_path / "output.1.partial").mkdir()
    (tmp_path / "output.1.partial" / "config.json").write_text("{")
    (tmp_path / "stdout").write_text("half a li")
    assert strikes._partial(place, before, command) == ""
    (place.workdir / "evaluation.json").write_text("new")
    assert strikes._partial(place, before, command) == ""
    (tmp_path / "output" / "texts.json").write_text("{")
    assert strikes._partial(place, before, command).startswith("output/texts.json is neither")
    (tmp_path / "output" / "texts.json").unlink()
    (place.workdir / "evaluation.json").unlink()
    assert strikes._partial(place, before, command) == "run/evaluation.json is missing"


class _Played(Place):
    """A place in which a command comes to what was set beforehand, instead of running."""

    plays = ()

    def run(self, command, harm=None):
        writes, ended = self.plays.pop(0)
        for name, content in writes.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return ended


def test_a_command_that_is_given_again_makes_the_same(tmp_path):
    made = {"run/evaluation.json": b"old", "output/config.json": b"{}", "stdout": b"done"}
    place, command = _place(tmp_path, "export", made)
    place = _Played(None, tmp_path)
    refused = Ended(1, "error: --path=output is not empty; choose another\n")
    place.plays = [(made, Ended(0, "")), ({"stdout": b""}, refused)]
    assert strikes._again(place, command)[0] == IDENTICAL
    assert strikes._again(place, command)[0] == IDENTICAL  # refused, and whole
    (tmp_path / "output" / "config.json").write_text("{{")
    place.plays = [({}, refused)]
    assert strikes._again(place, command)[0] == "ends with status 1"
    place.plays = [({"stdout": b"done"}, Ended(0, ""))]
    assert strikes._again(place, command)[0] == "output/config.json differs"


def test_a_kill_may_hit_a_process_that_a_command_has_started():
    job = Job([SimpleNamespace(pid=os.getpid())], [])
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in strikes._children(job)
        child.kill()
    assert child.pid not in strikes._children(job)


def test_a_run_of_a_sweep_that_failed_is_told_in_one_line(tmp_path):
    place, _ = _place(tmp_path, "sweep", {})
    (tmp_path / "stdout").write_text("a plan\nfailed: seed=1: no space\nresults: there\n")
    assert strikes._refusal(place, Ended(1, "")) == "failed: seed=1: no space"
    assert strikes._refusal(place, Ended(1, "error: one\n")) == "one"


def test_runs_that_are_one_program_are_compared_but_for_rounding(tmp_path):
    place, _ = _place(tmp_path, "together", {})
    shown = []
    for loss in ("3.616250051395155", "3.616250029477206", "3.6173"):
        (tmp_path / "sweep").mkdir(exist_ok=True)
        (tmp_path / "sweep" / "results.csv").write_text(f"name,validation_loss\nseed=0,{loss}\n")
        shown.append(PROGRAMS["together"].shown(place))
    assert shown[0] == shown[1] != shown[2]


def test_runs_of_a_sweep_are_compared_but_for_times(tmp_path):
    place, _ = _place(tmp_path, "sweep", {})
    runs = tmp_path / "sweep" / "runs"
    runs.mkdir(parents=True)
    _finished_run(runs / "seed=0-abc")
    (tmp_path / "sweep" / "results.csv").write_text("name,seconds\nseed=0,1.5\n")
    first = PROGRAMS["sweep"].shown(place)
    (tmp_path / "sweep" / "results.csv").write_text("name,seconds\nseed=0,9.5\n")
    assert PROGRAMS["sweep"].shown(place) == first and set(first) == {"run seed=0", "results.csv"}
    flipped_run = shutil.copytree(runs, tmp_path / "copy") / "seed=0-abc"
    for path in (flipped_run / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    summary = {"run seed=0": judge.summary(flipped_run), "results.csv": first["results.csv"]}
    assert strikes._difference(summary, first) == judge.NOTICED
    (flipped_run / "evaluation.json").write_text('{"step": 3}')
    summary["run seed=0"] = judge.summary(flipped_run)
    assert strikes._difference(summary, first) == "run seed=0 differs"
    (runs / "seed=0-abc" / "evaluation.json").write_text('{"step": 3}')
    assert PROGRAMS["sweep"].shown(place)["run seed=0"] != first["run seed=0"]
    (runs / "seed=0-abc" / "evaluation.json").unlink()
    assert PROGRAMS["sweep"].shown(place)["run seed=0"].startswith(b"cannot be read")


@pytest.mark.slow
def test_a_drill_of_every_attack_finds_nothing_lost(tmp_path):
    attacks = "kill:2,stop:1,pause:1,imports:1,second:1,disk:8,arrays:5,caches:2,files:4,failing:2,"
    attacks += "slow:1,clock:1,data:1,evaluate:4,generate:4,changing:3,export:4,prepare:6,sweep:2,"
    attacks += "together:2"
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
    assert len(json.loads((tmp_path / "drill.json").read_text())) == 54


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        (Experiment(), {"evaluate", "generate", "export"}),
        (Experiment(objective="classification", data=ImageConfig()), set()),
        (Experiment(objective="seq2seq", data=ParallelTextConfig()), {"translate"}),
    ],
)
def test_only_programs_that_read_such_runs_are_attacked(experiment, names):
    readers = ("evaluate", "generate", "export", "translate")
    assert {name for name in readers if applies(name, experiment)} == names
