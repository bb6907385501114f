"""One run of `launch.prepare_data`: its time, and the memory of it and its workers."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.process_tree import ProcessTree


def measured(raw: Path, corpus: Path, workers: int, *arguments: str) -> dict[str, Any]:
    """Prepares a corpus and returns what it took.

    Processor time and memory are sampled twice a second; memory is the largest sum of proportional
    set sizes.

    Args:
      raw: the raw text.
      corpus: the directory to write.
      arguments: further flags; without `--config`, the tiny configuration is taken with 16 tasks.
    """
    command = [sys.executable, "-m", "launch.prepare_data", *arguments, f"--output={corpus}"]
    if not any(argument.startswith("--config=") for argument in arguments):
        command += ["--config=configs/data/tiny.py", "--config.tasks=16"]
    command += [f"--config.path={raw}", f"--workers={workers}"]
    started, largest = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    tree = ProcessTree(process.pid)
    while process.poll() is None:
        largest = max(largest, tree.sample())
        time.sleep(0.5)
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(process.returncode)
    result = json.loads(process.stdout.read().splitlines()[-1])
    seconds, size = time.monotonic() - started, raw.stat().st_size
    return {
        "megabytes": size / 1e6,
        "seconds": seconds,
        "processor_seconds": tree.processor_seconds,
        "processor_seconds_per_100_megabytes": tree.processor_seconds / size * 1e8,
        "memory_gigabytes": largest / 1e9,
        "documents_left": result["documents"],
        "bytes_left": result["bytes"],
    }
