"""A work directory that an earlier version wrote still resumes, evaluates and generates.

On the machine that made it the losses are equal bit for bit; others round otherwise. The rates of
that version were those of one step earlier, so the test resumes the run twice: with these rates, to
the recorded losses, and with those of today, which users get.
"""

import json
import math
import shutil
from pathlib import Path

import pytest

from tests.golden.machine import machine
from tests.launch import programs

HERE = Path(__file__).parent / "made_before"
FINISHED = json.loads((HERE / "finished.json").read_text())


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A directory with the resumed run, and the way to run Python there as users do."""
    directory = tmp_path_factory.mktemp("made_before")
    for name in ("stopped", "data"):
        shutil.copytree(HERE / name, directory / name)

    def run(module, *arguments):
        """One device, compiled as the earlier version compiled."""
        status, out, err = programs.run(module, *arguments, cwd=directory, XLA_FLAGS="")
        assert status == 0, err
        return err + out

    text = run("tests.runs.resume_made_before")
    assert text.count("resuming from the checkpoint of step 6") == 2
    return directory / "stopped", run


def training_rows(directory):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


def test_with_the_rates_of_then_it_resumes_to_the_same_losses(resumed):
    directory, _ = resumed
    losses = {str(row["step"]): row["loss"] for row in training_rows(directory)}
    if machine() == FINISHED["machine"]:
        assert losses == FINISHED["training_loss"]
    assert losses == pytest.approx(FINISHED["training_loss"], rel=1e-6)
    results = json.loads((directory / "evaluation.json").read_text())
    known = {name: value for name, value in FINISHED["validation"].items() if value is not None}
    found = {name: results["validation"][name] for name in known}
    assert found == pytest.approx(known, rel=1e-6)
    assert results["step"] == 12
    if machine() == FINISHED["machine"]:
        assert (directory / "samples.txt").read_text(encoding="utf-8") == FINISHED["samples"]


@pytest.mark.slow
def test_what_resumes_now_takes_the_rates_of_now(resumed):
    directory, _ = resumed
    before, now = training_rows(directory), training_rows(directory.parent / "renewed")
    assert now[:2] == before[:2] and [row["step"] for row in now] == [3, 6, 9]
    cosine = {n: 0.1 + 0.9 * (1 + math.cos(math.pi * (n - 2) / 10)) / 2 for n in (8, 9, 11)}
    rates = [row["learning_rate"] for row in before[2:] + now[2:]]
    assert rates == pytest.approx([1e-2 * cosine[n] for n in (8, 11, 9)])
    assert 0 < abs(now[2]["loss"] - before[2]["loss"]) < 0.1


def test_its_checkpoint_measures_what_it_measured_then(resumed):
    directory, run = resumed
    shutil.copytree(HERE / "stopped", directory.parent / "untouched")
    recorded = json.loads((HERE / "stopped" / "metrics.jsonl").read_text().splitlines()[-1])
    expected = FINISHED["stopped_evaluated"]
    out = run("launch.evaluate", "--workdir=untouched")
    measured = json.loads(out.splitlines()[-1])
    measured = {name: measured["validation"][name] for name in expected}
    if machine() == FINISHED["machine"]:
        assert measured == expected
    assert measured == pytest.approx(expected, rel=1e-6)
    assert measured == pytest.approx({name: recorded[name] for name in expected}, rel=1e-6)


def test_it_generates_with_the_program(resumed):
    _, run = resumed
    text = run("launch.generate", "--workdir=stopped", "--prompt=The", "--num_samples=1")
    assert "The" in text
