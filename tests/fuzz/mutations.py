"""Damages bytes: flips, cuts, copies and swaps of parts, values that are too large or too deep."""

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

_BOMBS = (
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\x7f",
    b"-1",
    b"1e999",
    b"9" * 400,
    b"9" * 5000,
    b"null",
    b'"x"',
    b"[]",
    b"{}",
    b"[" * 2000,
    b"[" * 150 + b"]" * 150,
    b'{"a":' * 500,
    b"\\ud800",
    b"\\u0000",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"NaN",
    b"\t\t",
    b"\n\n",
    b"\r",
    b'"',
    b"../../x",
    b"/etc/passwd",
    b"{{ x }}",
    b"<script>",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan")),
    *("", "x", "\0", "../../x", "/etc/passwd", "a" * 5000, "1", [], {}, [[]], {"": None}, [None]),
)
_SIZES = (1, 2, 4, 8)  # bytes of an integer in a header
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_LARGEST = 1 << 20  # bytes: copies of copies would grow without end


class Mutation(NamedTuple):
    """One damage; `at` and `size` are shares of the length in 65,536ths."""

    kind: str
    at: int
    size: int
    value: int


def _flip(data: bytes, at: int, size: int, value: int) -> bytes:
    changed = (data[at] if at < len(data) else 0) ^ (1 << value % 8)
    return data[:at] + bytes([changed]) + data[at + 1 :]


def _set(data: bytes, at: int, size: int, value: int) -> bytes:
    return data[:at] + bytes([value % 256]) + data[at + 1 :]


def _cut(data: bytes, at: int, size: int, value: int) -> bytes:
    return data[:at] if value % 3 == 0 else data[:at] + data[at + 1 + size % 64 :]


def _copy(data: bytes, at: int, size: int, value: int) -> bytes:
    part = data[size : size + 1 + value % 64]
    return data[:at] + part * (1 + value % 3) + data[at:]


def _repeat(data: bytes, at: int, size: int, value: int) -> bytes:
    """Writes everything between two places several times."""
    first, last = sorted((at, size))
    return data[:first] + data[first:last] * (2 + value % 7) + data[last:]


def _swap(data: bytes, at: int, size: int, value: int) -> bytes:
    """Swaps two parts of equal length."""
    first, second = sorted((at, size))
    length = min(1 + value % 64, second - first)
    one, other = data[first : first + length], data[second : second + length]
    between = data[first + length : second]
    return data[:first] + other + between + one + data[second + length :]


def _bomb(data: bytes, at: int, size: int, value: int) -> bytes:
    bomb = _BOMBS[value % len(_BOMBS)]
    return data[:at] + bomb + data[at + (len(bomb) if size % 2 else 0) :]


def _integer(data: bytes, at: int, size: int, value: int) -> bytes:
    """Writes an integer of a header at a multiple of its size, often a power of two or near one."""
    width, order = _SIZES[size % 4], "little" if value % 4 else "big"
    number = (1 << value // 4 % (8 * width)) + value // 256 % 3 - 1
    if value % 7 == 0:
        number = len(data) + value // 7 % 17 - 8  # what may be just too large
    at -= at % width if value % 2 else 0
    written = (number % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    return data[:at] + written + data[at + width :]


def _decimal(data: bytes, at: int, size: int, value: int) -> bytes:
    """Replaces the next number that is written in digits."""
    found = _NUMBER.search(data, at)
    if not found:
        return data
    number = json.dumps(_VALUES[value % len(_VALUES)]).encode()
    return data[: found.start()] + number + data[found.end() :]


def _replace_value(data: bytes, at: int, size: int, value: int) -> bytes:
    """Replaces what stands between two signs of JSON, CSV or a header."""
    first = max(data.rfind(sign, 0, at + 1) for sign in (b":", b",", b"[", b"\n", b" ")) + 1
    ends = [data.find(sign, first + 1) for sign in (b",", b"]", b"}", b"\n")]
    last = min([end for end in ends if end >= 0], default=len(data))
    return data[:first] + _BOMBS[value % len(_BOMBS)] + data[last:]


def _json_value(data: bytes, at: int, size: int, value: int) -> bytes:
    """Replaces, removes or doubles a value of the line of JSON, or of the whole file of it."""
    for first, last in ((0, len(data)), _line(data, at)):
        try:
            tree = json.loads(data[first:last])
        except (ValueError, RecursionError):
            continue
        places = list(_places(tree))
        if not places:
            return data
        holder, key = places[(at * 31 + size) % len(places)]
        if value % 16 == 0:
            del holder[key]
        elif value % 16 == 1 and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif value % 16 < 5:  # a value of another place
            other, name = places[value // 16 % len(places)]
            holder[key] = json.loads(json.dumps(other[name]))
        else:
            holder[key] = _VALUES[value // 16 % len(_VALUES)]
        return data[:first] + json.dumps(tree).encode() + data[last:]
    return data


def _line(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(b"\n", at)
    return data.rfind(b"\n", 0, at) + 1, len(data) if end < 0 else end


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the holder and the key of every value."""
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        if not isinstance(holder, dict | list):
            continue
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            waiting.append(holder[key])


KINDS: dict[str, Callable[[bytes, int, int, int], bytes]] = {
    "flip": _flip,
    "set": _set,
    "cut": _cut,
    "copy": _copy,
    "repeat": _repeat,
    "swap": _swap,
    "bomb": _bomb,
    "integer": _integer,
    "decimal": _decimal,
    "replace": _replace_value,
    "json": _json_value,
}


def mutated(data: bytes, mutations: Sequence[Mutation]) -> bytes:
    """Returns the bytes after all mutations in a row, at most 1 MiB of them."""
    for kind, at, size, value in mutations:
        position, other = ((len(data) + 1) * share >> 16 for share in (at, size))
        data = KINDS[kind](data, position, other, value)[:_LARGEST]
    return data


def drawn(source: random.Random) -> list[Mutation]:
    """Returns one to eight mutations at random."""
    return [
        Mutation(
            source.choice(list(KINDS)),
            source.randrange(1 << 16),
            source.randrange(1 << 16),
            source.randrange(1 << 16),
        )
        for _ in range(1 + min(source.randrange(8), source.randrange(8)))
    ]


def spliced(data: bytes, other: bytes, source: random.Random) -> bytes:
    """Returns the beginning of one file and the end of another, at most 1 MiB."""
    first, last = source.randrange(len(data) + 1), source.randrange(len(other) + 1)
    return (data[:first] + other[last:])[:_LARGEST]
