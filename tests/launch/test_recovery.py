"""Runs that are stopped or killed, full disks and broken checkpoints."""

import json
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from lm_jax.telemetry.json_files import read_metrics
from tests.launch.programs import (
    ROOT,
    TINY,
    environment,
    launch,
    parameters,
    start,
    train,
    wait_for_step,
)


def test_a_full_disk_is_one_line_and_spares_what_is_there(trained, tmp_path):
    """A limit on the size of files stands for the full disk: writes fail half-way."""
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    kept = workdir / "checkpoints" / "30"
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    shutil.rmtree(workdir / "checkpoints" / "40")
    (workdir / "evaluation.json").unlink()  # as if it had been stopped on the way

    arguments = [*TINY, f"--workdir={workdir}"]
    command = shlex.join([sys.executable, "-m", "launch.train", *arguments])
    process = subprocess.run(
        ["bash", "-c", f"ulimit -f 30; exec {command}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    err = process.stderr
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1 and len(errors) == 1, err
    assert "free some space and start again" in errors[0] and "Traceback" not in err
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_sigterm_while_a_program_imports_asks_to_start_it_again():
    code = """
import os, signal
from absl import app
from launch import train
app.run = lambda *arguments, **more: os.kill(os.getpid(), signal.SIGTERM)  # nothing runs yet
train.program.run(train.main, resumes=True)
"""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 75
    assert process.stderr == "stopped before the work began; the same command begins it\n"
    assert "resumes=True" in (ROOT / "launch" / "train.py").read_text()


def test_sigterm_saves_and_the_work_directory_alone_goes_on(trained, tmp_path):
    workdir = tmp_path / "run"
    process = start("train", *TINY, f"--workdir={workdir}", "--config.checkpoint.every_steps=0")
    wait_for_step(workdir, process, 5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    stopped = json.loads(out.strip().splitlines()[-1])
    assert stopped["stopped"] and 5 <= stopped["step"] < 40
    status, _, err = launch("train", f"--workdir={workdir}")
    assert status == 0, err
    for ours, theirs in zip(parameters(workdir), parameters(trained[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_five_kills_change_no_bit_of_the_result(trained, tmp_path):
    workdir = tmp_path / "run"
    rng = np.random.default_rng()
    kills = 0
    while kills < 5:
        process = start("train", *TINY, f"--workdir={workdir}")
        reached = max((row["step"] for row in read_metrics(workdir)), default=0)
        wait_for_step(workdir, process, min(reached + int(rng.integers(1, 12)), 39))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate(timeout=120)
    results = train(workdir)
    assert results["validation"] == trained[1]["validation"]
    for ours, theirs in zip(parameters(workdir), parameters(trained[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    steps = [row["step"] for row in read_metrics(workdir) if row["kind"] == "train"]
    assert steps == list(range(1, 41))


@pytest.mark.slow
def test_a_broken_checkpoint_falls_back_to_the_one_before(trained, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    newest = workdir / "checkpoints" / "40"
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (workdir / "evaluation.json").unlink()  # as if it had been stopped on the way
    status, last, err = launch("generate", f"--workdir={workdir}")
    assert status == 0 and json.loads(last)["step"] == 30
    status, _, err = launch("train", *TINY, f"--workdir={workdir}")
    assert status == 0
    assert "checkpoint of step 40 cannot be read" in err and "step 30" in err
