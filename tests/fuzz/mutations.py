"""Damages bytes: flips, cuts, copies of parts, and numbers that are too large."""

import random
from collections.abc import Sequence
from typing import NamedTuple

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
    b'{"a":' * 500,
    b"\\ud800",
    b"\\u0000",
    b"\xed\xa0\x80",
    b"NaN",
    b"\t\t",
    b"\n\n",
    b"../../x",
    b"{{ x }}",
)


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


def _bomb(data: bytes, at: int, size: int, value: int) -> bytes:
    bomb = _BOMBS[value % len(_BOMBS)]
    return data[:at] + bomb + data[at + (len(bomb) if size % 2 else 0) :]


def _replace_value(data: bytes, at: int, size: int, value: int) -> bytes:
    """Replaces what stands between two signs of JSON, CSV or a header."""
    first = max(data.rfind(sign, 0, at + 1) for sign in (b":", b",", b"[", b"\n", b" ")) + 1
    ends = [data.find(sign, first + 1) for sign in (b",", b"]", b"}", b"\n")]
    last = min([end for end in ends if end >= 0], default=len(data))
    return data[:first] + _BOMBS[value % len(_BOMBS)] + data[last:]


KINDS = {
    "flip": _flip,
    "set": _set,
    "cut": _cut,
    "copy": _copy,
    "bomb": _bomb,
    "replace": _replace_value,
}


def mutated(data: bytes, mutations: Sequence[Mutation]) -> bytes:
    """Returns the bytes after all mutations in a row."""
    for kind, at, size, value in mutations:
        position, other = ((len(data) + 1) * share >> 16 for share in (at, size))
        data = KINDS[kind](data, position, other, value)
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
