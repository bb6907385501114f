"""JSONL: a JSON object per line."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lm_jax.data.content import HEAD, Content, lines_of, numbered_lines, open_content
from lm_jax.data.formats.interface import Format, Record, Request
from lm_jax.errors import UserError
from lm_jax.json_values import parse_half_pairs

_SUFFIXES = (".jsonl", ".ndjson")
_OBJECT = re.compile(rb"(\xef\xbb\xbf)?\s*\{")
_ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*\{")


def matches(content: Content, request: Request) -> bool:
    """Returns whether the name ends in .jsonl or .ndjson, or the first two lines are such objects.

    Raises:
      UserError: the file is one JSON array of such objects.
    """
    if content.suffix in _SUFFIXES:
        return True
    if _OBJECT.match(content.head):
        text = content.head.decode("utf-8", "replace").removeprefix("\ufeff")
        return _begins_with_objects(text, request.fields, is_whole=len(content.head) < HEAD)
    if _ARRAY_OF_OBJECTS.match(content.head) and _is_array(content, request.fields):
        raise UserError(
            f"{content.path} is one JSON array of objects; expected one object per line, which "
            "jq -c '.[]' writes, in a file whose name ends in .jsonl"
        )
    return False


def read(content: Content, request: Request) -> Iterator[Record]:
    """Yields the objects.

    Raises:
      UserError: a line is no JSON object, or lacks a field.
    """
    path, fields, decoder = content.path, request.fields, request.decoder
    lines = numbered_lines(content, decoder, request.part, request.parts)
    for number, line in lines:
        if not line.is_valid:
            decoder.count_skipped()
            continue
        if not line.text.strip():
            continue
        values = _object(line.text)
        if values is None or any(field not in values for field in fields):
            raise UserError(f"{path}:{number + 1}: {_fault(line.text, values, request)}")
        if "\\ud" in line.text or "\\uD" in line.text:
            values = _without_half_pairs(values, request, f"{path}:{number + 1}")
        if values is None:
            decoder.count_skipped()
        else:
            yield Record(values, f"{path}:{number + 1}")


def _fault(line: str, values: dict[str, Any] | None, request: Request) -> str:
    expected = "{" + ", ".join(f'"{field}": ...' for field in request.fields) + "}"
    why = "it is no JSON object"
    if values is not None:
        missing = ", ".join(field for field in request.fields if field not in values)
        why = f"it has {', '.join(values) or 'nothing'} and no {missing}{request.advice}"
    return f"{line.rstrip()[:60]!r} is not {expected}: {why}"


def _without_half_pairs(
    values: dict[str, Any], request: Request, origin: str
) -> dict[str, Any] | None:
    found = dict(values)
    for field in request.fields:
        if isinstance(values[field], str):
            found[field] = request.decoder.without_half_pairs(values[field], origin)
            if found[field] is None:
                return None
    return found


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = parse_half_pairs(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _begins_with_objects(text: str, fields: Sequence[str], is_whole: bool) -> bool:
    lines = lines_of(text)
    first = [line for line in (lines if is_whole else lines[:-1]) if line.strip()][:2]
    found = [_object(line) for line in first]
    return bool(found) and all(v is not None and v.keys() >= set(fields) for v in found)


def _is_array(content: Content, fields: Sequence[str]) -> bool:
    if len(content.head) < HEAD:
        whole = content.head
    else:  # a file whose first bytes look like it: rare, and refused or a single text
        with open_content(content.file) as again:
            whole = again.stream.read()
    try:
        found = parse_half_pairs(whole.decode("utf-8"))
    except ValueError:
        return False
    return bool(found) and all(isinstance(v, dict) and v.keys() >= set(fields) for v in found)


JSON_LINES = Format(matches, read, reads_parts=True)
