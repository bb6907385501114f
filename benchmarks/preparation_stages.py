"""Processor time of each block of a preparation, in one process.

  python -m benchmarks.preparation_stages --text=data/english.jsonl --megabytes=31 \
      --output=benchmarks/results/preparation_stages.json

Takes the first documents of a JSONL file. The time of a block is its own, without that of the
blocks that it draws documents from.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

from absl import app, flags

from lm_jax.config.config_file import call_config_file
from lm_jax.data.preparation import executors
from lm_jax.data.preparation.config import PreparationConfig
from lm_jax.data.preparation.prepare import prepare
from lm_jax.reports.preparation_page import write_page
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

TEXT = flags.DEFINE_string("text", None, "JSONL of text.", required=True)
CONFIG = flags.DEFINE_string("config", "configs/data/english.py", "The preparation.")
MEGABYTES = flags.DEFINE_float("megabytes", 31, "Text that is taken.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


class Clock:
    """Adds processor time to the block that runs: the last one that was entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = ["everything else"]
        self._since = time.process_time()

    def _switch(self) -> None:
        now = time.process_time()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def during(self, name: str, function: Callable[[], Any]) -> Any:
        """Returns what a function returns, and adds its time to a block."""
        self._switch()
        self._running.append(name)
        try:
            return function()
        finally:
            self._switch()
            self._running.pop()

    def within(self, name: str, items: Iterator[Any]) -> Iterator[Any]:
        """Yields items; the time to make them is that of a block."""
        ended = object()
        while (item := self.during(name, lambda: next(items, ended))) is not ended:
            yield item


def _timed(clock: Clock, phase: str, blocks: list[Any], rank: int, tasks: int) -> None:
    data: Any = None
    for block in deepcopy(blocks):  # they keep counts
        name = f"{phase}: {type(block).__name__}"
        data = clock.during(name, partial(block, data, rank, tasks))
        data = None if data is None else clock.within(name, iter(data))
    for _ in data or ():
        pass


def main(_: list[str]) -> None:
    """Prints the blocks, the dearest first, and writes the JSON file, if one is given."""
    config = cast(
        PreparationConfig,
        call_config_file(CONFIG.value, "get_preparation", "configs/data/*.py"),
    )
    clock = Clock()

    def run(phases: Any, *_: Any) -> bool:
        for phase, rank in ((p, r) for p in phases for r in range(p.tasks)):
            _timed(clock, phase.name, phase.blocks, rank, phase.tasks)
        return True

    executors.EXECUTORS["local"] = run
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        raw = directory / "raw.jsonl"
        with Path(TEXT.value).open("rb") as file:
            raw.write_bytes(b"".join(file.readlines(int(MEGABYTES.value * 1e6))))
        config.path = str(raw)
        prepare(config, directory / "corpus", 1, write_page)
        clock.during("", lambda: None)
        size = raw.stat().st_size
    scale = 1e8 / size
    rows = [
        {"block": block, "seconds": seconds, "seconds_per_100_megabytes": seconds * scale}
        for block, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1])
        if block
    ]
    for row in rows[:30]:
        print(f"{row['seconds']:8.2f} s {row['seconds_per_100_megabytes']:8.1f} s  {row['block']}")
    total = sum(clock.seconds.values())
    print(f"{total:8.2f} s {total * scale:8.1f} s for 100 MB in all")
    if OUTPUT.value:
        found = {"environment": environment(), "megabytes": size / 1e6, "rows": rows}
        write_json(Path(OUTPUT.value), found | {"seconds": total})


if __name__ == "__main__":
    app.run(main)
