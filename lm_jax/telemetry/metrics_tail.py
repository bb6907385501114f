"""The last rows of metrics.jsonl, read from its end: a long run has millions."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lm_jax.json_values import fits, parse
from lm_jax.telemetry.run_files import Row

_BLOCK = 1 << 16
_MOST_BYTES = 1 << 24  # how far back the last evaluation is searched
_TRAINING_ROWS = 50


class MetricsTail(NamedTuple):
    """What the end of a file of metrics holds."""

    training: list[Row]  # the last 50, in the order written
    evaluation: Row | None  # the last one
    num_damaged: int  # lines that are no rows, but for an unfinished last one


def read_tail(path: Path) -> MetricsTail:
    """Returns the last rows of a file of metrics, which need not exist.

    At most the last 16 MiB are read.

    Raises:
      OSError: it cannot be read.
    """
    training: list[Row] = []
    evaluation, damaged = None, 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return MetricsTail([], None, 0)
    with file:
        for number, line in enumerate(_lines_from_end(file)):
            if evaluation and len(training) == _TRAINING_ROWS:
                break
            if len(training) == _TRAINING_ROWS and b'"evaluation"' not in line:
                continue
            row = _row(line)
            if row is None:
                damaged += bool(line) and number > 0  # the last line may be half written
            elif row["kind"] == "evaluation":
                evaluation = evaluation or row
            elif len(training) < _TRAINING_ROWS:
                training.append(row)
    return MetricsTail(training[::-1], evaluation, damaged)


def _row(line: bytes) -> Row | None:
    try:
        row = parse(line)
    except ValueError:
        return None
    return row if fits(row, Row) else None


def _lines_from_end(file: BinaryIO) -> Iterator[bytes]:
    """Yields lines, the last one first; what follows the last line end counts as a line."""
    end = position = file.seek(0, os.SEEK_END)
    rest = b""
    while position and end - position < _MOST_BYTES:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        rest, *lines = (file.read(size) + rest).split(b"\n")
        yield from reversed(lines)
    if not position:
        yield rest
