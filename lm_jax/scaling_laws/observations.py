"""Reads the points that a law is fitted to from a CSV file."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.scaling_laws.compute_optimal import FLOPS_PER_PARAMETER_AND_TOKEN

_LISTED = 5  # bad rows that a message names
_PLAIN_COLUMNS = {"n": "n", "s": "steps", "loss": "loss"}
_SWEEP_COLUMNS = {  # of `results.csv`
    "n": "non_embedding_parameters",
    "d": "training_tokens",
    "c": "training_flops",
    "s": "steps",
    "loss": "validation_loss",
    "status": "status",
}


CsvRow = Mapping[str, str | None]


@dataclass(frozen=True)
class Points:
    """P runs, or points along runs; columns that a law does not need may be absent."""

    columns: dict[str, np.ndarray]  # by n, d, c, s and loss: float64 [P], all positive
    groups: np.ndarray | None  # [P] names
    lines: np.ndarray  # [P] line numbers in the file

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]


def read_points(
    path: str | Path,
    columns: Mapping[str, str],
    where: Sequence[str] = (),
    group_column: str | None = None,
    best_per: Sequence[str] = (),
) -> Points:
    """Returns the rows of a CSV with a header that pass all filters.

    Where two of parameters `n`, tokens `d` and training FLOPs `c` are given, the third follows
    from C = 6 N D.

    Args:
      path: the file.
      columns: the file's columns by n, d, c, s (optimizer steps) and loss.
      where: filters `column=value`; numbers are compared as numbers.
      group_column: the column with the architecture of each row.
      best_per: columns; among rows of one group with equal values in all of them, the one with
        the lowest loss is kept. A loss that is no positive number loses to one that is.

    Raises:
      UserError: a column is missing, a filter is malformed or leaves no row, or a value is no
        positive number; the message lists lines of the file.
      OSError: the file cannot be read.
    """
    path = Path(path)
    header, rows = _read(path)
    filters = [_filter(text) for text in where]
    wanted = [*columns.values(), *(name for name, _ in filters)]
    wanted += [*([group_column] if group_column else []), *best_per]
    missing = sorted(set(wanted) - set(header))
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}; its columns are "
            f"{', '.join(header) or 'none'}"
        )
    kept = [(n, row) for n, row in rows if all(_equal(row[k], v) for k, v in filters)]
    if best_per:
        telling = [*best_per, *([group_column] if group_column else [])]
        kept = _best(kept, telling, columns["loss"])
    if not kept:
        chosen = f" of {len(rows)} pass {', '.join(where)}" if where else ""
        raise UserError(f"{path}: no rows{chosen}")
    lines = np.array([n for n, _ in kept])
    values = {
        name: _numbers(path, column, lines, [row[column] for _, row in kept])
        for name, column in columns.items()
    }
    _complete(values)
    groups = np.array([row[group_column] for _, row in kept]) if group_column else None
    return Points(values, groups, lines)


def known_columns(path: str | Path) -> dict[str, str]:
    """Returns the default columns by variable; a sweep's `results.csv` has more of them.

    Raises:
      UserError: the file is no CSV file.
      OSError: it cannot be read.
    """
    path = Path(path)
    header = set(_read(path)[0])
    if not header >= set(_SWEEP_COLUMNS.values()):
        return _PLAIN_COLUMNS
    return _SWEEP_COLUMNS | ({"budget": "budget"} if "budget" in header else {})


def _read(path: Path) -> tuple[list[str], list[tuple[int, CsvRow]]]:
    """Returns the header, and the rows with their line numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or [])
            rows: list[tuple[int, CsvRow]] = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; expected a CSV file") from None
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file: {error}") from None
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{path} has several columns {', '.join(repeated)}; rename all but one")
    if set(header) >= set(_SWEEP_COLUMNS.values()) and not path.read_bytes().endswith(b"\n"):
        raise UserError(f"{path} is cut off in its last line; rebuild it with launch.sweep --table")
    return header, rows


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"filter {text!r}; expected column=value")
    return name, value


def _equal(cell: str | None, value: str) -> bool:
    return cell is not None and _as_number(cell) == _as_number(value)


def _numbers(path: Path, column: str, lines: np.ndarray, cells: Sequence[str | None]) -> np.ndarray:
    values = np.array([_number(cell) for cell in cells])
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        found = [(lines[i], " ".join((cells[i] or "").split())) for i in bad[:_LISTED]]
        listed = ", ".join(f"line {line}: {cell or 'empty'}" for line, cell in found)
        more = ", ..." if len(bad) > _LISTED else ""
        raise UserError(
            f"{path}, column {column}: {len(bad)} of {len(cells)} values are no positive numbers "
            f"({listed}{more}); correct these rows or leave them out (--where)"
        )
    return values


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return float("nan")


def _best(
    rows: Sequence[tuple[int, CsvRow]], columns: Sequence[str], loss_column: str
) -> list[tuple[int, CsvRow]]:
    """Returns the row of lowest loss for each key, in the order of the file."""
    best: dict[Any, tuple[float, int, CsvRow]] = {}
    for line, row in rows:
        loss = _number(row[loss_column])
        loss = loss if loss > 0 else math.inf
        key = tuple(_as_number(row[column]) for column in columns)
        if key not in best or loss < best[key][0]:
            best[key] = (loss, line, row)
    return sorted(((line, row) for _, line, row in best.values()), key=lambda pair: pair[0])


def _as_number(cell: str | None) -> float | str | None:
    """Returns a number where the cell holds one, so that 1e3 equals 1000."""
    return cell if math.isnan(found := _number(cell)) else found


def _complete(values: dict[str, np.ndarray]) -> None:
    have = values.keys() & {"n", "d", "c"}
    factor = FLOPS_PER_PARAMETER_AND_TOKEN
    if have == {"n", "c"}:
        values["d"] = values["c"] / (factor * values["n"])
    elif have == {"d", "c"}:
        values["n"] = values["c"] / (factor * values["d"])
    elif have == {"n", "d"}:
        with np.errstate(over="ignore"):
            values["c"] = factor * values["n"] * values["d"]
    for name in {"n", "d", "c"} & values.keys() - have:
        if not np.all(np.isfinite(values[name]) & (values[name] > 0)):
            raise UserError(
                f"C = 6 N D gives a {name} that is no positive number; correct the other columns"
            )
