"""Starts the programs of launch/ as processes, on a run of one layer of 32 and 40 steps."""

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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


@functools.cache
def _fork_server() -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.launch.fork_server"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)  # it ends with its input
    return server


def _ask(request: dict | int) -> int | None:
    server = _fork_server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


class Fork:
    """A program in a process of its own: what `subprocess.Popen` is, by way of the fork server."""

    def __init__(self, module: str, arguments: Sequence[str], cwd: Path, env: dict[str, str]):
        self._directory = tempfile.TemporaryDirectory()
        self._files = {n: str(Path(self._directory.name) / n) for n in ("stdout", "stderr")}
        request = {"module": module, "arguments": arguments, "cwd": str(cwd), **self._files}
        self.pid = _ask(request | {"environment": env})
        self.returncode: int | None = None
        self._written: tuple[str, str] | None = None

    def poll(self) -> int | None:
        """Returns the exit status, None while the process runs."""
        if self.returncode is None:
            self.returncode = _ask(-self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal to a process that has not been seen to end."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends the process at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end, and returns stdout and stderr."""
        if timeout is None and self.returncode is None:
            self.returncode = _ask(self.pid)
        deadline = time.monotonic() + (timeout or 0)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.02)
        if self._written is None:
            self._written = tuple(Path(path).read_text() for path in self._files.values())
            self._directory.cleanup()
        return self._written


def fork(module: str, *arguments: str, cwd: Path = ROOT, **more: str) -> Fork:
    """Starts `python -m module` in a fork, with `more` in its environment."""
    return Fork(module, arguments, cwd, environment() | more)


def start(program: str, *arguments: str, cwd: Path = ROOT) -> Fork:
    """Starts a program of launch/ without waiting for it."""
    return fork(f"launch.{program}", *arguments, cwd=cwd)


def run(module: str, *arguments: str, cwd: Path = ROOT, **more: str) -> tuple[int, str, str]:
    """Returns the exit status, stdout and stderr of `python -m module`, run in a fork."""
    process = fork(module, *arguments, cwd=cwd, **more)
    out, err = process.communicate()
    return process.returncode, out, err


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


def wait_for_step(workdir: Path, process: Fork, step: int) -> None:
    """Waits until a run has logged a step, or its process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        rows = read_metrics(workdir)
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.02)
