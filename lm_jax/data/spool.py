"""Texts on disk, one after the other: written once while they are read, then mapped."""

import mmap
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, overload

T = TypeVar("T")


class Spool(Sequence[str]):
    """A sequence of texts in an unnamed file of UTF-8, of which 8 bytes a text stand in memory.

    The file is gone with the sequence, or with the process. Lone surrogates are kept, so that they
    are refused where it is known why.
    """

    def __init__(self, texts: Iterable[str | Iterable[str]], directory: Path):
        """Writes texts, each whole or in parts, into a file on the disk of a directory.

        Raises:
          OSError: the disk is full.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._ends = array("q", [0])
        with tempfile.TemporaryFile(dir=directory, buffering=1 << 20) as file:
            for text in texts:
                size = 0
                for part in (text,) if isinstance(text, str) else text:
                    size += file.write(part.encode("utf-8", "surrogatepass"))
                self._ends.append(self._ends[-1] + size)
            file.flush()
            # An empty file cannot be mapped.
            self._bytes = (
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._ends[-1] else b""
            )

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        for first, last in pairwise(self._ends):
            yield self._bytes[first:last].decode("utf-8", "surrogatepass")

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "Selected[str]": ...

    def __getitem__(self, index: int | slice) -> "str | Selected[str]":
        if isinstance(index, slice):
            return Selected(self, range(len(self))[index])
        index = range(len(self))[index]
        first, last = self._ends[index : index + 2]
        return self._bytes[first:last].decode("utf-8", "surrogatepass")


class Selected(Sequence[T]):
    """Some items of a sequence, in a given order, none of them copied."""

    def __init__(self, items: Sequence[T], numbers: Sequence[int]):
        self._items, self._numbers = items, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[T]:
        return map(self._items.__getitem__, self._numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> "Selected[T]": ...

    def __getitem__(self, index: int | slice) -> "T | Selected[T]":
        if isinstance(index, slice):
            return Selected(self._items, self._numbers[index])
        return self._items[self._numbers[index]]
