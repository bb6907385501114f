"""Time and memory of preparing plain text for training, and of drawing windows from it.

  python -m benchmarks.text_data --text=text.txt --megabytes=100 --megabytes=300 \
      --small_files=200000 --output=benchmarks/results/text_data.json

Each size is one file, the beginning of the text; the small files hold 100 MB of it together. Every
preparation is a process of its own. Memory is the largest sum of proportional set sizes, sampled
five times a second.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.process_tree import ProcessTree
from lm_jax.data import DataConfig, TokenizerConfig, prepare
from lm_jax.data.text.windows import training_batches
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

TEXT = flags.DEFINE_string("text", None, "A long text.", required=True)
MEGABYTES = flags.DEFINE_multi_integer("megabytes", [100], "Sizes of one file.")
SMALL_FILES = flags.DEFINE_integer("small_files", 0, "Number of files that hold 100 MB; 0: none.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

_PREPARE = """
import json, sys, time
from lm_jax.data import DataConfig, TokenizerConfig, prepare
path, split, kind, cache = sys.argv[1:]
tokenizer = TokenizerConfig(kind, 4096)
config = DataConfig("files", path, split=split, cache_directory=cache, tokenizer=tokenizer)
started = time.monotonic()
found = prepare(config)
seconds = time.monotonic() - started
print(json.dumps({"seconds": seconds, "tokens": found.description["train"]["tokens"]}))
"""


def _prepare(path: Path, split: str, kind: str, cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", _PREPARE, str(path), split, kind, str(cache)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    tree, largest = ProcessTree(process.pid), 0
    while process.poll() is None:
        largest = max(largest, tree.sample())
        time.sleep(0.2)
    assert process.stdout is not None
    found = json.loads(process.stdout.read())
    return found | {
        "processor_seconds": tree.processor_seconds,
        "memory_gigabytes": largest / 1e9,
    }


def _row(name: str, path: Path, split: str, kind: str, cache: Path) -> dict[str, Any]:
    time.sleep(3)  # files that changed just now would be read twice
    first, second = (_prepare(path, split, kind, cache) for _ in range(2))
    cached = sum(file.stat().st_size for file in cache.rglob("train_tokens.npy"))
    row = {"text": name, "tokenizer": kind, **first, "second_start_seconds": second["seconds"]}
    row["cache_bytes_per_token"] = cached / first["tokens"]
    print(row, flush=True)
    return row


def _windows(path: Path, cache: Path) -> dict[str, Any]:
    """Returns the tokens per second of random windows of prepared text, as training takes them."""
    config = DataConfig(
        "files",
        str(path),
        split="tail",
        cache_directory=str(cache),
        tokenizer=TokenizerConfig("bpe", 4096),
    )
    rates = {}
    for context_length in (256, 1024):
        batches = training_batches(
            prepare(config).train, context_length=context_length, batch_size=64, seed=0
        )
        seconds = []
        for step in range(200):
            started = time.perf_counter()
            batches[step]
            seconds.append(time.perf_counter() - started)
        rates[f"context {context_length}"] = 64 * context_length / float(np.median(seconds))
    return rates


def main(_: list[str]) -> None:
    """Measures each size in turn, and writes the table."""
    text = Path(TEXT.value).read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = []
    rates: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        for megabytes in MEGABYTES.value:
            path = here / f"{megabytes}.txt"
            path.write_text(text[: megabytes * 1_000_000], encoding="utf-8")
            for kind in ("byte", "bpe"):
                cache = here / f"cache_{megabytes}_{kind}"
                name = f"one file of {path.stat().st_size / 1e6:.0f} MB"
                rows.append(_row(name, path, "tail", kind, cache))
            rates = _windows(path, here / f"cache_{megabytes}_bpe")
        if SMALL_FILES.value:
            folder, size = here / "small", 100_000_000 // SMALL_FILES.value
            for number in range(SMALL_FILES.value):
                part = folder / f"{number // 1000:04}"
                part.mkdir(parents=True, exist_ok=True)
                content = text[number * size : (number + 1) * size]
                (part / f"{number}.txt").write_text(content, encoding="utf-8")
            name = f"{SMALL_FILES.value:,} files, 100 MB"
            rows.append(_row(name, folder, "documents", "bpe", here / "cache_small"))
    results = {"environment": environment(), "rows": rows, "window_tokens_per_second": rates}
    if OUTPUT.value:
        write_json(Path(OUTPUT.value), results)
    print(json.dumps(rates))


if __name__ == "__main__":
    app.run(main)
