"""Sequences of texts that stand on disk: written once while they are read, then mapped."""

import mmap
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, overload

from lm_jax.errors import names_path

T = TypeVar("T")

_PART = 1_000_000  # characters


class Spool(Sequence[str]):
    """Texts in an unnamed file of UTF-8, of which 8 bytes a text stand in memory.

    Texts are added until the first one is read. The file is gone with the sequence, or with the
    process. Lone surrogates are kept, so that they are refused where it is known why.
    """

    def __init__(self, directory: Path | None = None):
        """Opens the file on the disk of a directory; None: that of temporary files."""
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory or Path(tempfile.gettempdir())
        self._ends = array("q", [0])
        self._file = tempfile.TemporaryFile(dir=directory, buffering=1 << 20)
        self._bytes: mmap.mmap | bytes | None = None

    def append(self, text: str) -> None:
        """Adds a text.

        Raises:
          OSError: the disk is full.
        """
        self.append_parts([text])

    def append_parts(self, parts: Iterable[str]) -> None:
        """Adds a text that comes in parts.

        Raises:
          OSError: the disk is full; names the directory.
        """
        assert self._bytes is None, "the texts are being read"
        size = sum(self._write(raw) for part in parts for raw in utf8_parts(part))
        self._ends.append(self._ends[-1] + size)

    def _write(self, raw: bytes) -> int:
        with names_path(self._directory):
            return self._file.write(raw)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        for first, last in pairwise(self._ends):
            yield self._text(first, last)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "Selected[str]": ...

    def __getitem__(self, index: int | slice) -> "str | Selected[str]":
        if isinstance(index, slice):
            return Selected(self, range(len(self))[index])
        index = range(len(self))[index]
        return self._text(*self._ends[index : index + 2])

    def _text(self, first: int, last: int) -> str:
        if self._bytes is None:
            with names_path(self._directory):
                self._file.flush()
            # An empty file cannot be mapped.
            is_empty = self._ends[-1] == 0
            self._bytes = (
                b"" if is_empty else mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            )
            self._file.close()
        return str(memoryview(self._bytes)[first:last], "utf-8", "surrogatepass")


def utf8_parts(text: str) -> Iterator[bytes]:
    """Yields the UTF-8 of a text in parts, so that a long one is not held twice.

    Lone surrogates are kept.
    """
    for start in range(0, len(text), _PART):
        yield text[start : start + _PART].encode("utf-8", "surrogatepass")


def spooled(texts: Iterable[str], directory: Path | None) -> Spool:
    """Returns texts as a sequence on the disk of a directory; None: that of temporary files.

    Raises:
      OSError: the disk is full.
    """
    spool = Spool(directory)
    for text in texts:
        spool.append(text)
    return spool


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
