"""JSON files: written atomically, and read line by line."""

import json
import math
from pathlib import Path
from typing import Any

from lm_jax.atomic_files import open_atomically
from lm_jax.json_values import fits, parse
from lm_jax.telemetry.run_files import Row


def finite(value: Any) -> Any:
    """Returns the value with null in place of numbers that JSON lacks (nan, inf)."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_finite(value: Any) -> bool:
    """Returns whether a value holds no number that JSON lacks."""
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def drop_rows_after(path: Path, last_step: int, measured_again: bool) -> None:
    """Drops the rows after `last_step` from a file of metrics."""
    rows = [row for row in _rows(path) if row["step"] <= last_step]
    if measured_again:  # a run that resumes at its end evaluates the last state again
        rows = [row for row in rows if (row["step"], row["kind"]) != (last_step, "evaluation")]
    with open_atomically(path) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file of metrics up to the first incomplete or damaged line."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = parse(line)
        except ValueError:  # a killed process leaves half a line
            break
        if not fits(row, Row):
            break
        rows.append(row)
    return rows


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics.jsonl in the order written; [] if there is no file."""
    path = Path(workdir) / "metrics.jsonl"
    return _rows(path) if path.exists() else []


def json_text(values: Any) -> str:
    """Returns JSON as `write_json` writes it."""
    return json.dumps(finite(values), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, values: Any) -> None:
    """Writes JSON atomically; numbers that JSON lacks (nan, inf) become null."""
    write_text(path, json_text(values))


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with open_atomically(path) as file:
        file.write(text)
