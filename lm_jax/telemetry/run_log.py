"""Writes the metrics of a run: progress on the terminal, metrics.jsonl, TensorBoard.

What starts and fails is noted in attempts.json.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lm_jax.atomic_files import make_directory, open_to_append
from lm_jax.errors import names_path
from lm_jax.nested import flatten
from lm_jax.telemetry.attempts import note_error, note_start
from lm_jax.telemetry.json_files import drop_rows_after, finite
from lm_jax.telemetry.loggers import OnMetrics

_SECONDS_BETWEEN_LINES = 10.0


class RunLog:
    """The log of a training run; progress and messages go to stderr.

    Opening it for a resumed run drops the rows after `first_step`, so that metrics.jsonl and
    TensorBoard hold every step once.

    Args:
      shows: whether anything is printed.
      measured_again: whether the state of `first_step` is evaluated once more.
      on_metrics: called with the step and the numbers of each row, such as `train/loss`.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        total_steps: int,
        tensorboard: bool,
        first_step: int = 0,
        shows: bool = True,
        measured_again: bool = False,
        on_metrics: OnMetrics = lambda step, metrics: None,
    ):
        self._total, self._on_metrics = total_steps, on_metrics
        self._workdir = workdir
        path = workdir / "metrics.jsonl"
        if path.exists():
            # A run that begins anew may measure the state before its first step again.
            drop_rows_after(path, first_step or -1, measured_again)
        self._file = open_to_append(path)
        note_start(workdir, first_step)
        self._tensorboard = None
        if tensorboard:
            from lm_jax.telemetry.tensorboard_events import TensorBoardEvents

            self._tensorboard = TensorBoardEvents(
                make_directory(workdir / "tensorboard"), first_step + 1 if first_step else None
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
        """Writes a row of kind `evaluation` and prints its main measures."""
        self._write(step, "evaluation", metrics)
        bits = metrics.get("bits_per_character")
        self.message(
            f"step {step}: validation cross-entropy {metrics['cross_entropy']:.4f} nats, "
            f"perplexity {metrics['perplexity']:.2f}, accuracy {metrics['accuracy']:.2%}"
            + (f", {bits:.4f} bits per character" if bits else "")
        )
        if sources := metrics.get("sources"):
            losses = [f"{name} {part['cross_entropy']:.4f}" for name, part in sources.items()]
            self.message(f"  by source: {', '.join(losses)} nats")

    def message(self, text: str) -> None:
        """Prints a line."""
        self._display.message(text)

    def failed(self, error: Exception) -> None:
        """Notes why the run failed, also after the log was closed."""
        note_error(self._workdir, str(error) or type(error).__name__)

    def close(self) -> None:
        """Ends the progress display and closes the files."""
        self._display.close()
        with names_path(Path(self._file.name)):
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def _write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        row = {"step": step, "kind": kind} | finite(dict(metrics))
        with names_path(Path(self._file.name)):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        numbers = {
            f"{kind}/{name.replace('.', '/')}": value
            for name, value in flatten(row).items()
            if isinstance(value, int | float) and name != "step"
        }
        if self._tensorboard:
            self._tensorboard.add(step, numbers)
        self._on_metrics(step, numbers)


class Quiet(RunLog):
    """A log that writes nothing: another process of the job writes."""

    def __init__(self):
        self._total, self._display = 0, _Silence()

    def failed(self, error: Exception) -> None:
        """Notes nothing."""

    def close(self) -> None:
        """Closes nothing."""

    def _write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        pass


class _Bar:
    """Shows a live progress bar on a terminal."""

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
    """Prints a line of progress at most every 10 seconds, for log files."""

    def __init__(self):
        self._first: tuple[float, int] | None = (
            None  # excludes the first steps, which include compiling
        )
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
