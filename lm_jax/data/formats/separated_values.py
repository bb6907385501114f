"""CSV and TSV whose first line names the columns."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Literal

from lm_jax.data.content import Content, Line, decoded_lines
from lm_jax.data.formats.interface import Format, Record, Request
from lm_jax.errors import UserError

csv.field_size_limit(2**31 - 1)  # a text may be longer than the 131,072 characters of the default

_HEADER = 100_000  # bytes that hold the first line
_DELIMITERS: dict[str, Literal[0, 3]] = {
    ",": csv.QUOTE_MINIMAL,
    ";": csv.QUOTE_MINIMAL,
    "\t": csv.QUOTE_NONE,
}


def matches(content: Content, request: Request) -> bool:
    """Returns whether the file is CSV by its name, or names two of the fields in its first line.

    Where one field is wanted, a first line that names it makes a .tsv, and no other file, TSV:
    prose may begin with a line that holds the word `text`.

    Raises:
      UserError: its name ends in .csv, and its first line does not name the fields.
    """
    suffix = content.suffix
    if len(request.fields) == 1 and suffix not in (".csv", ".tsv"):
        return False
    found = _delimiter(content, request.fields)
    if suffix == ".csv" and found is None:
        raise UserError(
            f"{content.path}: the first line names the columns "
            f"{', '.join(_header(content, ',')) or 'nothing'}; expected "
            f"{' and '.join(request.fields)} among them{request.advice}"
        )
    by_name = suffix == ".csv" or (suffix == ".tsv" and found == "\t")
    return by_name or (found is not None and len(request.fields) > 1)


def read(content: Content, request: Request) -> Iterator[Record]:
    """Yields the rows.

    Raises:
      UserError: a row has more or fewer columns than the first line, or its quotes do not close.
    """
    path = content.path
    delimiter = _delimiter(content, request.fields)
    assert delimiter is not None, "the file matches"
    invalid: list[str] = []  # lines of the row that is being read
    reader = csv.reader(
        _texts(decoded_lines(content, request.decoder), invalid),
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
            elif invalid:
                request.decoder.count_skipped()
            elif row and len(row) != len(header):
                raise UserError(
                    f"{origin}: {len(row)} columns, but the header names {len(header)} "
                    f"({', '.join(header)}); a field with commas or line ends needs quotes"
                )
            elif row:
                yield Record(dict(zip(header, row, strict=True)), origin)
            invalid.clear()
    except csv.Error as error:
        raise UserError(f"{path}:{before + 1}: {error}; expected a row of CSV") from None


def _texts(lines: Iterator[Line], invalid: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.is_valid:
            invalid.append(line.text)
        yield line.text


def _header(content: Content, delimiter: str) -> list[str]:
    text = content.head[:_HEADER].decode("utf-8", "replace").removeprefix("\ufeff")
    lines = io.StringIO(text, newline="")
    try:
        return next(csv.reader(lines, delimiter=delimiter, quoting=_DELIMITERS[delimiter]), [])
    except csv.Error:
        return []


def _delimiter(content: Content, fields: Sequence[str]) -> str | None:
    """Returns what parts the columns of a first line that names these fields; None: it does not."""
    for delimiter in _DELIMITERS:
        if set(fields) <= set(_header(content, delimiter)):
            return delimiter
    return None


SEPARATED_VALUES = Format(matches, read)
