"""Files of records: JSONL, and CSV or TSV whose first line names the columns.

A file is recognised by its name or its content, so that none is read as plain text by mistake.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lm_jax.data.files import format_suffix, lines_of, read_text
from lm_jax.errors import UserError

csv.field_size_limit(2**31 - 1)  # a text may be longer than the 131,072 characters of the default

_DELIMITERS: dict[str, Literal[0, 3]] = {
    ",": csv.QUOTE_MINIMAL,
    ";": csv.QUOTE_MINIMAL,
    "\t": csv.QUOTE_NONE,
}


class Record(NamedTuple):
    """The fields of one record, and where it stands."""

    values: dict[str, Any]
    origin: str  # path:line


def records_of(path: Path, fields: Sequence[str], advice: str = "") -> Iterator[Record] | None:
    """Returns the records of a file, which have at least these fields; None: it holds no records.

    A file is JSONL if its name ends in .jsonl or .ndjson, or if its first two lines are JSON
    objects with these fields. It is CSV if its name ends in .csv, or if its first line names two of
    these fields or more. A compressed file is named by what precedes .gz, .bz2 or .xz.

    Args:
      advice: what else a user can do about a file without these fields.

    Raises:
      UserError: the file cannot be read, is one JSON array of such records, or has no header with
        these fields; while iterating: a line is no record, or has no such field.
    """
    suffix, text = format_suffix(path), read_text(path).removeprefix("\ufeff")
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, text, fields, advice)
    delimiter = _delimiter(text, fields)
    if suffix == ".csv":
        if delimiter is None:
            raise UserError(
                f"{path}: the first line names the columns "
                f"{', '.join(_header(text, ',')) or 'nothing'}; expected {' and '.join(fields)} "
                f"among them{advice}"
            )
        return _rows(path, text, delimiter)
    if delimiter and len(fields) > 1:
        return _rows(path, text, delimiter)
    if _is_json_array(text, fields):
        raise UserError(
            f"{path} is one JSON array of objects; expected one object per line, which "
            "jq -c '.[]' writes, in a file whose name ends in .jsonl"
        )
    if _looks_like_json_lines(text, fields):
        return _json_lines(path, text, fields, advice)
    return None


def text_field(record: Record, field: str) -> str:
    """Returns a field that must be text.

    Raises:
      UserError: it is a number, null or something else of JSON.
    """
    value = record.values[field]
    if not isinstance(value, str):
        raise UserError(f"{record.origin}: {field} is {json.dumps(value)[:60]}; expected a text")
    return value


def _json_lines(path: Path, text: str, fields: Sequence[str], advice: str) -> Iterator[Record]:
    expected = "{" + ", ".join(f'"{field}": ...' for field in fields) + "}"
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        values = _json_object(line)
        if values is None or any(field not in values for field in fields):
            why = "it is no JSON object"
            if values is not None:
                missing = ", ".join(field for field in fields if field not in values)
                why = f"it has {', '.join(values) or 'nothing'} and no {missing}{advice}"
            raise UserError(f"{path}:{number}: {line[:60]!r} is not {expected}: {why}")
        yield Record(values, f"{path}:{number}")


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _looks_like_json_lines(text: str, fields: Sequence[str]) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    first = [line for line in lines_of(text[:1_000_000]) if line.strip()][:2]
    found = [_json_object(line) for line in first]
    return all(values is not None and values.keys() >= set(fields) for values in found)


def _is_json_array(text: str, fields: Sequence[str]) -> bool:
    if not text.lstrip().startswith("["):
        return False
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return bool(found) and all(isinstance(v, dict) and v.keys() >= set(fields) for v in found)


def _rows(path: Path, text: str, delimiter: str) -> Iterator[Record]:
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=_DELIMITERS[delimiter],
        strict=True,
    )
    header: list[str] | None = None
    before = 0  # lines: a quoted field may hold several
    try:
        for row in reader:
            origin, before = f"{path}:{before + 1}", reader.line_num
            if header is None:
                header = row
            elif row and len(row) != len(header):
                raise UserError(
                    f"{origin}: {len(row)} columns, but the header names {len(header)} "
                    f"({', '.join(header)}); a field with commas or line ends needs quotes"
                )
            elif row:
                yield Record(dict(zip(header, row, strict=True)), origin)
    except csv.Error as error:
        raise UserError(f"{path}:{before + 1}: {error}; expected a row of CSV") from None


def _header(text: str, delimiter: str) -> list[str]:
    lines = io.StringIO(text[:100_000], newline="")
    try:
        return next(csv.reader(lines, delimiter=delimiter, quoting=_DELIMITERS[delimiter]), [])
    except csv.Error:
        return []


def _delimiter(text: str, fields: Sequence[str]) -> str | None:
    """Returns what parts the columns of a first line that names these fields; None: it does not."""
    for delimiter in _DELIMITERS:
        if set(fields) <= set(_header(text, delimiter)):
            return delimiter
    return None
