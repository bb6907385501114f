"""Starts the programs of launch/ as processes, on a run of one layer of 32 and 40 steps."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from lm_jax.config.experiment import CheckpointConfig
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.training.checkpoints import Checkpoints
from tests.conftest import QUICK_COMPILATION

ROOT = Path(__file__).parents[2]
TINY = [
    "--config=configs/quickstart.py",
    "--config.model.context_length=32",
    "--config.model.num_layers=1",
    "--config.model.d_model=32",
    "--config.model.num_heads=2",
    "--config.data.tokenizer.kind=byte",
    "--config.training.num_steps=40",
    "--config.training.steps_per_call=5",
    "--config.training.log_every_steps=1",
    "--config.schedule.warmup_steps=5",
    "--config.evaluation.every_steps=20",
    "--config.evaluation.batch_size=128",
    "--config.checkpoint.every_steps=10",
    "--config.samples.num_samples=1",
    "--config.samples.max_new_tokens=40",
    "--config.tensorboard=false",
]


def environment() -> dict[str, str]:
    """Returns the environment of a program: one CPU device, and code that compiles quickly."""
    one_device = {"XLA_FLAGS": QUICK_COMPILATION, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return os.environ | one_device


def start(program: str, *arguments: str, cwd: Path = ROOT) -> subprocess.Popen:
    """Starts a program in a process of its own, for tests that send signals to it."""
    return subprocess.Popen(
        [sys.executable, "-m", f"launch.{program}", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@functools.cache
def _fork_server() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.launch.fork_server"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(module: str, *arguments: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    """Returns the exit status, stdout and stderr of `python -m module`, run in a fork."""
    server = _fork_server()
    with tempfile.TemporaryDirectory() as directory:
        files = {name: str(Path(directory) / name) for name in ("stdout", "stderr")}
        request = {"module": module, "arguments": arguments, "cwd": str(cwd), **files}
        request["environment"] = environment()
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return status, *(Path(path).read_text() for path in files.values())


def launch(program: str, *arguments: str) -> tuple[int, str, str]:
    """Returns the exit status, the last line of stdout, and stderr of a program of launch/."""
    status, out, err = run(f"launch.{program}", *arguments)
    return status, (out.strip().splitlines() or [""])[-1], err


def train(workdir: Path, *more: str) -> dict:
    """Returns the results of training TINY with further flags."""
    status, last, err = launch("train", *TINY, f"--workdir={workdir}", *more)
    assert status == 0, err
    return json.loads(last)


def parameters(workdir: Path) -> list[np.ndarray]:
    """Returns every array of the newest checkpoint."""
    checkpoints = Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True)
    with contextlib.closing(checkpoints):
        _, state = checkpoints.restore(None, "last", print)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state["params"])]


def wait_for_step(workdir: Path, process: subprocess.Popen, step: int) -> None:
    """Waits until a run has logged a step, or its process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        rows = read_metrics(workdir)
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.02)
