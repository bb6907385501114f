r"""Trains a tiny model for a long time and samples what the process holds: memory, files, threads.

  python -m benchmarks.soak --workdir=soak --minutes=180 --output=soak.json

Evaluates, saves a checkpoint and writes the report every `--every_steps` steps; choose them so that
a minute passes. A flat slope of memory, open files and threads is what is hoped for.
"""

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np
from absl import app, flags

from configs import quickstart
from lm_jax.config.experiment import Experiment
from lm_jax.runs.page import write_page
from lm_jax.runs.train import train
from lm_jax.telemetry.environment import versions
from lm_jax.telemetry.json_files import write_json

WORKDIR = flags.DEFINE_string("workdir", None, "A new directory of the run.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "The file of samples and slopes.", required=True)
MINUTES = flags.DEFINE_float("minutes", 180.0, "Length of the soak.")
EVERY_STEPS = flags.DEFINE_integer("every_steps", 2000, "Steps between two evaluations.")
SAMPLE_SECONDS = flags.DEFINE_float("sample_seconds", 30.0, "Seconds between two samples.")

_WARM_UP_MINUTES = 5.0  # compilation and first caches do not count


class Sample(TypedDict):
    """What the process holds at one moment."""

    seconds: float  # since the start
    cpu_seconds: float  # of all threads
    step: int
    rss_mib: float
    open_files: int
    threads: int


def tiny_experiment(every_steps: int) -> Experiment:
    """Returns an experiment of one layer that is evaluated and saved every `every_steps` steps."""
    experiment = quickstart.get_config()
    experiment.model.context_length = 32
    experiment.model.num_layers, experiment.model.num_heads = 1, 2
    experiment.model.d_model = 32
    experiment.data.tokenizer.kind = "byte"
    experiment.training.num_steps = 100_000_000  # the clock ends it
    experiment.training.steps_per_call = 10
    experiment.training.log_every_steps = max(every_steps // 10, 10)
    experiment.evaluation.every_steps = every_steps
    experiment.evaluation.batch_size = 128
    experiment.checkpoint.every_steps = every_steps
    return experiment


def sample(started: float, step: int) -> Sample:
    """Returns a sample of this process from /proc (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Sample(
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time(),
        step=step,
        rss_mib=int(status["VmRSS"].split()[0]) / 1024,
        open_files=len(os.listdir("/proc/self/fd")),
        threads=int(status["Threads"]),
    )


def slopes(samples: list[Sample]) -> dict[str, float]:
    """Returns slopes per minute after the warm-up, by least squares; {} if samples are few."""
    late = [each for each in samples if each["seconds"] >= 60 * _WARM_UP_MINUTES]
    if len(late) < 2:
        return {}
    minutes = np.array([each["seconds"] for each in late]) / 60
    table = {
        "rss_mib": [each["rss_mib"] for each in late],
        "open_files": [float(each["open_files"]) for each in late],
        "threads": [float(each["threads"]) for each in late],
    }
    return {name: float(np.polyfit(minutes, column, 1)[0]) for name, column in table.items()}


def speeds(samples: list[Sample], minutes: float = 10.0) -> dict[str, float]:
    """Returns steps per second, and per second of CPU, of the first and the last minutes.

    Seconds of CPU do not count what other programs on the machine take.
    """
    late = [each for each in samples if each["seconds"] >= 60 * _WARM_UP_MINUTES]
    found: dict[str, float] = {}
    if len(late) < 2:
        return found
    for name, part in (
        ("first", [e for e in late if e["seconds"] <= late[0]["seconds"] + 60 * minutes]),
        ("last", [e for e in late if e["seconds"] >= late[-1]["seconds"] - 60 * minutes]),
    ):
        steps = part[-1]["step"] - part[0]["step"]
        for clock in ("seconds", "cpu_seconds"):
            spent = part[-1][clock] - part[0][clock]
            if spent:
                found[f"{name}_steps_per_{clock.removesuffix('s')}"] = steps / spent
    return found


def main(argv: list[str]) -> None:
    del argv
    started, step, over = time.monotonic(), 0, threading.Event()
    experiment, workdir = tiny_experiment(EVERY_STEPS.value), Path(WORKDIR.value)
    samples: list[Sample] = []
    reports = 0

    def on_metrics(at: int, metrics: Mapping[str, float]) -> None:
        nonlocal step, reports
        step = at
        if "evaluation/cross_entropy" in metrics:
            write_page(workdir, experiment, {})
            reports += 1

    def write() -> None:
        write_json(
            Path(OUTPUT.value),
            {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "command": " ".join(["python -m benchmarks.soak", *sys.argv[1:]]),
                "versions": versions(),
                "minutes": samples[-1]["seconds"] / 60,
                "reports": reports,
                "slopes_per_minute": slopes(samples),
                "speeds": speeds(samples),
                "samples": samples,
            },
        )

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS.value):
            samples.append(sample(started, step))
            write()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    train(
        experiment,
        workdir,
        stop_requested=lambda at: time.monotonic() - started > 60 * MINUTES.value,
        on_metrics=on_metrics,
    )
    over.set()
    watcher.join()
    write()
    print(json.dumps(slopes(samples) | speeds(samples)))


if __name__ == "__main__":
    app.run(main)
