"""Files of records: which format a file has, and its records.

A file is recognised by its name or its content, so that none is read as plain text by mistake.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from lm_jax.data.content import Content, open_content, refuse_other_formats
from lm_jax.data.files import SourceFile, local_file
from lm_jax.data.formats import FORMATS, Format, Record, Request
from lm_jax.data.utf8 import Decoder
from lm_jax.errors import UserError


def records_of(
    path: Path,
    fields: Sequence[str],
    advice: str = "",
    optional: Sequence[str] = (),
    given_by: str = "data.path",
) -> Iterator[Record] | None:
    """Returns the records of a file, which have at least these fields; None: it holds no records.

    Args:
      advice: what else a user can do about a file without these fields.
      optional: fields that are read where there are any.
      given_by: the field or the flag that names the file, for messages.

    Raises:
      UserError: the file cannot be read, or is of a format that has fields but not these; while
        iterating: a record is damaged or lacks a field.
    """
    file = local_file(path, given_by=given_by)
    request = Request(fields, Decoder(given_by=given_by), advice, optional)
    with open_content(file) as content:
        found = format_of(content, request)
    return None if found is None else _read(file, found, request)


def _read(file: SourceFile, found: Format, request: Request) -> Iterator[Record]:
    with open_content(file) as content:
        yield from found.read(content, request)


def format_of(content: Content, request: Request) -> Format | None:
    """Returns the format of an open file; None: it holds text.

    Raises:
      UserError: the file is of a format that cannot be read, or that lacks the fields.
    """
    refuse_other_formats(content)
    matching = (found for found in FORMATS.values() if found.matches(content, request))
    return next(matching, None)


def text_field(record: Record, field: str) -> str:
    """Returns a field that must be text.

    Raises:
      UserError: it is a number, null or something else of JSON.
    """
    value = record.values[field]
    if not isinstance(value, str):
        shown = json.dumps(value, default=str)[:60]
        raise UserError(f"{record.origin}: {field} is {shown}; expected a text")
    return value
