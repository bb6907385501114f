"""Metrics out of a run: progress on the terminal, metrics.jsonl, TensorBoard."""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_PACKAGES = ("lm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SECONDS_BETWEEN_LINES = 10.0


class RunLog:
    """Where a training run writes; what people read goes to stderr.

    Opening it for a resumed run drops the rows after `first_step`, so that metrics.jsonl and
    TensorBoard hold every step once. With `shows` False nothing is printed.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        total_steps: int,
        tensorboard: bool,
        first_step: int = 0,
        shows: bool = True,
    ):
        self._total = total_steps
        path = workdir / "metrics.jsonl"
        if path.exists():
            _keep_until(path, first_step, measured_again=first_step >= total_steps)
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=first_step + 1 if first_step else None
            )
        self._display: _Bar | _Lines | _Silence
        console = Console(stderr=True)
        if not shows:
            self._display = _Silence()
        elif console.is_terminal:
            self._display = _Bar(console, total_steps, first_step)
        else:
            self._display = _Lines()

    def training(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes a row of kind `train` and moves the progress display."""
        self._write(step, "train", metrics)
        rates = [(name, value) for name, value in metrics.items() if name.endswith("_per_second")]
        speed = "".join(f"  {v:,.0f} {name.removesuffix('_per_second')}/s" for name, v in rates)
        text = f"loss {metrics['loss']:.4f}{speed}"
        self._display.step(step, self._total, text)

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes a row of kind `evaluation` and prints its main figures."""
        self._write(step, "evaluation", metrics)
        bits = metrics.get("bits_per_character")
        self.message(
            f"step {step}: validation cross-entropy {metrics['cross_entropy']:.4f} nats, "
            f"perplexity {metrics['perplexity']:.2f}, accuracy {metrics['accuracy']:.2%}"
            + (f", {bits:.4f} bits per character" if bits else "")
        )

    def message(self, text: str) -> None:
        """Prints a line for people."""
        self._display.message(text)

    def close(self) -> None:
        """Ends the display and closes the files."""
        self._display.close()
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def _write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        row = {"step": step, "kind": kind} | finite(dict(metrics))
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._tensorboard:
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, step)


class Quiet(RunLog):
    """The log of a process that leaves writing to another."""

    def __init__(self):
        self._total, self._display = 0, _Silence()

    def close(self) -> None:
        """Has nothing to end."""

    def _write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        pass


class Meter:
    """Turns the metrics of steps into rows of the log: means since the row before, and rates."""

    def __init__(
        self,
        log: RunLog,
        *,
        unit: str,
        units_per_step: int,
        every_steps: int,
        num_steps: int,
        started: float,
    ):
        self._every, self._last = every_steps, num_steps
        self._unit, self._units_per_step = unit, units_per_step
        self._log, self._started = log, started
        self._rows: list[dict[str, float]] = []
        self._since: float | None = None  # None: the time until the next read is not only steps'
        self._rates: list[float] = []
        self._first_read: float | None = None

    def log(self, last_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics [K] of the K steps up to `last_step`."""
        now, count = time.monotonic(), len(metrics["loss"])
        if self._first_read is None:
            self._first_read = now - self._started
        if self._since is not None:
            self._rates.append(count * self._units_per_step / (now - self._since))
        self._since = now
        for index in range(count):
            self._rows.append({name: float(value[index]) for name, value in metrics.items()})
            step = last_step - count + 1 + index
            if step % self._every == 0 or step == self._last:
                self._flush(step, now)

    def _flush(self, step: int, now: float) -> None:
        row = {name: float(np.mean([r[name] for r in self._rows])) for name in self._rows[0]}
        row["learning_rate"] = self._rows[-1]["learning_rate"]
        row[self._unit] = step * self._units_per_step
        if self._rates:
            row[f"{self._unit}_per_second"] = self._rates[-1]
        self._log.training(step, row | {"seconds": now - self._started})
        self._rows = []

    def pause(self) -> None:
        """Leaves the time until the next read out of the rates."""
        self._since = None

    def timings(self) -> dict[str, float | None]:
        """Seconds from the start to the first steps read, and the median rate of training."""
        return {
            "seconds_to_first_steps": self._first_read,
            f"{self._unit}_per_second": float(np.median(self._rates)) if self._rates else None,
        }


def finite(value: Any) -> Any:
    """The value with numbers that JSON lacks (nan, inf) as null."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keep_until(path: Path, last_step: int, measured_again: bool) -> None:
    rows = [row for row in _rows(path) if row["step"] <= last_step]
    if measured_again:  # a run that resumes at its end evaluates its last state once more
        rows = [row for row in rows if (row["step"], row["kind"]) != (last_step, "evaluation")]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, path)


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # a killed process leaves half a line
            break
    return rows


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, in the order written; [] where there are none."""
    path = workdir / "metrics.jsonl"
    return _rows(path) if path.exists() else []


class _Bar:
    """A live bar, for terminals."""

    def __init__(self, console: Console, total: int, first_step: int):
        self._progress = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=total, completed=first_step, text="starting")
        self._progress.start()

    def step(self, step: int, total: int, text: str) -> None:
        self._progress.update(self._task, completed=step, text=text)

    def message(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """A line now and then, for logs."""

    def __init__(self):
        self._first: tuple[float, int] | None = None  # after the first steps: compiling is no speed
        self._last = -math.inf

    def step(self, step: int, total: int, text: str) -> None:
        now = time.monotonic()
        self._first = self._first or (now, step)
        if now - self._last < _SECONDS_BETWEEN_LINES and step != total:
            return
        self._last = now
        since, first = self._first
        if first < step < total:
            text += f"  {(now - since) / (step - first) * (total - step):.0f} s left"
        self.message(f"step {step}/{total}: {text}")

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class _Silence:
    def step(self, step: int, total: int, text: str) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def versions() -> dict[str, str | None]:
    """The versions of the packages that decide the numbers of a run."""
    return {name: version(name) for name in _PACKAGES}


def environment() -> dict[str, Any]:
    """What a reader needs to repeat a run: machine, versions, commit and command line."""
    import jax

    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": versions(),
    }


def version(package: str) -> str | None:
    """The version of an installed package; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    commit = found.stdout.strip()
    return commit + ("-dirty" if changes.stdout.strip() else "") if commit else None
