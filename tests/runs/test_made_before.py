"""A work directory that an earlier version wrote still resumes, evaluates and generates.

On the machine that made it the losses are equal bit for bit; others round otherwise.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.machine import machine

HERE = Path(__file__).parent / "made_before"
FINISHED = json.loads((HERE / "finished.json").read_text())
RESUME = """
from pathlib import Path
from lm_jax.runs.train import train
from lm_jax.runs.workdir import read_experiment
train(read_experiment(Path("stopped")), Path("stopped"))
"""


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A directory with the resumed run, and the way to run Python there as users do."""
    directory = tmp_path_factory.mktemp("made_before")
    for name in ("stopped", "data"):
        shutil.copytree(HERE / name, directory / name)
    unset = ("XLA_FLAGS",)  # one device, compiled as the earlier version compiled
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env["PYTHONPATH"] = str(HERE.parents[2])

    def run(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr + done.stdout

    assert "resuming from the checkpoint of step 6" in run("-c", RESUME)
    return directory / "stopped", run


def test_it_resumes_to_the_same_losses(resumed):
    directory, _ = resumed
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    losses = {str(row["step"]): row["loss"] for row in rows if row["kind"] == "train"}
    if machine() == FINISHED["machine"]:
        assert losses == FINISHED["training_loss"]
    assert losses == pytest.approx(FINISHED["training_loss"], rel=1e-6)
    results = json.loads((directory / "evaluation.json").read_text())
    known = {name: value for name, value in FINISHED["validation"].items() if value is not None}
    found = {name: results["validation"][name] for name in known}
    assert found == pytest.approx(known, rel=1e-6)
    assert results["step"] == 12


def test_it_evaluates_and_generates_with_the_programs(resumed):
    _, run = resumed
    out = run("-m", "launch.evaluate", "--workdir=stopped")
    measured = json.loads(out.splitlines()[-1])
    expected = FINISHED["validation"]["cross_entropy"]
    found = measured["validation"] if "validation" in measured else measured
    assert found["cross_entropy"] == pytest.approx(expected, rel=1e-6)
    text = run("-m", "launch.generate", "--workdir=stopped", "--prompt=The", "--num_samples=1")
    assert "The" in text
