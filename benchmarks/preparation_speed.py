"""Time and memory of `launch.prepare_data` by the size of the raw text.

  python -m benchmarks.preparation_speed --text=data/english.jsonl --megabytes=100 \
      --megabytes=300 --workers=2 --output=benchmarks/results/preparation_speed.json

Shuffles the documents of a JSONL file, so that all sizes hold the same mixture, and prepares what a
number of megabytes holds.
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.preparation_run import measured
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

TEXT = flags.DEFINE_string("text", None, "JSONL of raw text.", required=True)
CONFIG = flags.DEFINE_string("config", "configs/data/english.py", "The preparation.")
MEGABYTES = flags.DEFINE_multi_integer("megabytes", [100], "Sizes of raw text.")
FURTHER = flags.DEFINE_multi_string("argument", [], "Further flags of launch.prepare_data.")
WORKERS = flags.DEFINE_integer("workers", 2, "Workers.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def _measure(lines: list[str], megabytes: int, directory: Path) -> dict[str, Any]:
    raw, size = directory / "raw.jsonl", 0
    with raw.open("w", encoding="utf-8") as file:
        for line in lines:
            size += len(line.encode())
            if size > megabytes * 1e6:
                break
            file.write(line)
    return measured(
        raw, directory / "corpus", WORKERS.value, f"--config={CONFIG.value}", *FURTHER.value
    )


def main(_: list[str]) -> None:
    """Prints a row for each size and writes the JSON file, if one is given."""
    with Path(TEXT.value).open(encoding="utf-8") as file:
        lines = file.readlines()
    random.Random(0).shuffle(lines)
    rows = []
    for megabytes in MEGABYTES.value:
        with tempfile.TemporaryDirectory() as directory:
            rows.append(_measure(lines, megabytes, Path(directory)))
        print(json.dumps(rows[-1]), flush=True)
    if OUTPUT.value:
        write_json(
            Path(OUTPUT.value),
            {"environment": environment(), "workers": WORKERS.value, "rows": rows},
        )


if __name__ == "__main__":
    app.run(main)
