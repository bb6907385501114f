"""JSON that anybody may have written: parsed, and checked against the types its reader wants.

A shape is a type: `int`, `float`, `str`, `bool`, `list[X]`, `dict[str, X]`, `tuple[X, Y]` for a
list of two, `X | None`, `Any`, or a TypedDict, whose other keys are free.
"""

import functools
import json
import os
import stat
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union

from lm_jax import trusted_code
from lm_jax.errors import UserError

T = TypeVar("T")

_DEEPEST = 100  # levels; ours have fewer than ten
_SHOWN = 60  # characters of a value in a message
_LARGEST = 2**63 - 1
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for the writer of a pipe


def parse(text: str | bytes) -> Any:
    """Returns a JSON value.

    Raises:
      ValueError: it is no UTF-8 or no JSON, is nested deeper than 100 levels, or holds half of a
        surrogate pair, which no text can hold.
    """
    text = text if isinstance(text, str) else text.decode("utf-8")
    found = parse_half_pairs(text)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(found, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    return found


def parse_half_pairs(text: str) -> Any:
    """Returns a JSON value as `parse`, with the halves of surrogate pairs that it spells.

    Raises:
      ValueError: it is no JSON, or is nested deeper than 100 levels.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels") from None
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep(found):
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    return found


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        parts = (x.values() if isinstance(x, dict) else x for x in level)
        level = [x for part in parts for x in part if isinstance(x, dict | list)]
        if not level:
            return False
    return True


def read_json(path: Path) -> Any:
    """Returns the JSON value of a file; code that it names runs only if the user trusts it.

    Raises:
      UserError: the file holds something else.
      OSError: it cannot be read.
    """
    try:
        found = parse(_content(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it") from None
    trusted_code.note(found, path)
    return found


def _content(path: Path) -> bytes:
    """Returns what a file holds; the directory of a stranger may have a pipe or a device instead.

    Raises:
      ValueError: it is one.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is a pipe or a device, and no file")
        return file.read()


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object of a file.

    Raises:
      UserError: the file holds something else.
      OSError: it cannot be read.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object; restore it")
    return found


def read_as(path: Path, shape: type[T]) -> T:
    """Returns the JSON object of a file, whose fields have the types of a shape.

    Raises:
      UserError: the file holds something else; the message names the field, what it is, and what
        was expected.
      OSError: it cannot be read.
    """
    found: Any = read_object(path)
    if fault := fault_of(found, shape):
        raise UserError(f"{path}: {fault}; restore it")
    return found


def read_lines_of_json(path: Path) -> Iterator[Any]:
    """Yields the JSON value of each line of a file.

    Raises:
      UserError: a line holds something else.
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield parse(line)
            except ValueError as error:
                raise UserError(f"{path}:{number} is not JSON ({error}); restore it") from None


class _Fault(NamedTuple):
    path: str
    value: Any
    expected: str

    def __str__(self) -> str:
        if self.value is _MISSING:
            return f"it holds no {self.path.removeprefix('.')}"
        name = f"{self.path.removeprefix('.')} is " if self.path else "it is "
        return f"{name}{shown(self.value)}; expected {self.expected}"


_MISSING = object()


def shown(value: Any) -> str:
    """Returns a value as a message shows it: as Python writes it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def fault_of(value: Any, shape: Any) -> str:
    """Returns which part of a JSON value has another type than its shape; "" if none has."""
    found = _fault(value, shape, "")
    return "" if found is None else str(found)


def fits(value: Any, shape: Any) -> bool:
    """Returns whether a JSON value has the types of a shape."""
    return _fault(value, shape, "") is None


def _fault(value: Any, shape: Any, path: str) -> _Fault | None:
    if shape is Any or (type(value) is float and value - value == 0 and shape in _FRACTIONS):
        return None  # most values are fractions: a file of metrics may hold millions
    if shape in _SCALARS:
        accepts, expected = _SCALARS[shape]
        return None if accepts(value) else _Fault(path, value, expected)
    kind, arguments = _parts(shape)
    if kind is Union:
        return _fault_of_union(value, arguments, path)
    is_object = kind is dict or typing.is_typeddict(kind)
    if not isinstance(value, dict if is_object else list):
        return _Fault(path, value, "an object" if is_object else "a list")
    return next(_faults_inside(value, kind, arguments, path), None)


@functools.cache
def _parts(shape: Any) -> tuple[Any, tuple[Any, ...]]:
    """Returns the kind of a shape, such as `list`, and the shapes of what is in it."""
    kind = typing.get_origin(shape) or shape
    return Union if kind is types.UnionType else kind, typing.get_args(shape)


def _faults_inside(
    value: Any, kind: Any, arguments: tuple[Any, ...], path: str
) -> Iterator[_Fault]:
    parts: list[tuple[str, Any, Any]]
    if kind is dict:
        parts = [(_key(name), x, arguments[1]) for name, x in value.items()] if arguments else []
    elif kind is list:
        if arguments and all(type(x) in _plain(arguments[0]) for x in value):
            return
        parts = [(f"[{i}]", x, arguments[0]) for i, x in enumerate(value)] if arguments else []
    elif kind is tuple:
        if len(value) != len(arguments):
            yield _Fault(path, value, f"a list of {len(arguments)}")
            return
        parts = [(f"[{i}]", *pair) for i, pair in enumerate(zip(value, arguments, strict=True))]
    else:
        fields = _fields(kind)
        yield from (
            _Fault(f"{path}.{name}", _MISSING, "")
            for name in fields
            if name in kind.__required_keys__ and name not in value
        )
        parts = [(f".{name}", x, fields[name]) for name, x in value.items() if name in fields]
    for name, inner, inner_shape in parts:
        if found := _fault(inner, inner_shape, path + name):
            yield found


def _key(name: str) -> str:
    """Returns how the path of a field goes on to a key, which may be any text."""
    return f".{name}" if name.isidentifier() else f"[{shown(name)}]"


@functools.cache
def _fields(kind: Any) -> Mapping[str, Any]:
    """Returns the shapes of a TypedDict's keys."""
    return typing.get_type_hints(kind)


def _plain(shape: Any) -> tuple[type, ...]:
    """Returns types of which every value has a shape: for long lists of texts or fractions."""
    members = typing.get_args(shape) or (shape,)
    return tuple(member for member in members if member in (str, bool, type(None)))


def _fault_of_union(value: Any, members: tuple[Any, ...], path: str) -> _Fault | None:
    if value is None and type(None) in members:
        return None
    faults = []
    for member in members:
        found = _fault(value, member, path)
        if found is None:
            return None
        faults.append(found)
    inside = [found for found in faults if found.path != path]
    expected = " or ".join(found.expected for found in faults)
    return inside[0] if inside else _Fault(path, value, expected)


_FRACTIONS: tuple[Any, ...] = (float, float | None)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # no infinity, no nan, no integer beyond any float


_SCALARS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (_is_integer, "an integer"),
    float: (_is_number, "a number"),
    str: (lambda value: isinstance(value, str), "a text"),
    type(None): (lambda value: value is None, "null"),
}
