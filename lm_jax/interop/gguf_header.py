"""Whether the header of a GGUF file names no more than the file holds.

The gguf package believes the lengths in a header: a damaged one keeps it busy for minutes, or makes
it take all memory. It makes an object of each item of an array, so items are counted, too. The
format: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import mmap
import struct
from pathlib import Path

from lm_jax.errors import UserError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by type
_TEXT, _ARRAY = 8, 9
_DEEPEST = 4  # arrays in arrays
_MOST_DIMENSIONS = 8
_VERSIONS = (2, 3)
_MOST_ITEMS = (
    1 << 21
)  # of all arrays; a vocabulary of 262,144 tokens and its merges have 1.3 million


def check_header(path: Path) -> None:
    """Raises UserError if the header of a GGUF file names more than it holds, or too many items.

    Other files are left to the package, which names what is wrong with them.
    """
    if path.stat().st_size < 24:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        orders = [
            each for each in "<>" if struct.unpack_from(f"{each}I", content, 4)[0] in _VERSIONS
        ]
        if content[:4] != b"GGUF" or not orders:
            return
        tensors, fields = struct.unpack_from(f"{orders[0]}QQ", content, 8)
        walk = _Walk(path, content, 24, orders[0])
        walk.need(fields * 13 + tensors * 24)  # the fewest bytes that they take
        for _ in range(fields):
            walk.text()
            walk.value(walk.number("I"), 0)
        for _ in range(tensors):
            walk.text()
            dimensions = walk.number("I")
            if dimensions > _MOST_DIMENSIONS:
                walk.refuse(f"names a tensor of {dimensions} dimensions")
            walk.skip(8 * dimensions + 4 + 8)  # sizes, type, offset


class _Walk:
    """A position in a file that never leaves it."""

    def __init__(self, path: Path, content: mmap.mmap, at: int, order: str):
        self._path, self._content, self._at, self._order = path, content, at, order
        self._items = 0

    def refuse(self, why: str) -> None:
        raise UserError(f"{self._path} is damaged or cut off: its header {why}; copy it again")

    def need(self, count: int) -> None:
        if count > len(self._content) - self._at:
            self.refuse(f"names {count:,} bytes at {self._at:,} of {len(self._content):,}")

    def skip(self, count: int) -> None:
        self.need(count)
        self._at += count

    def number(self, form: str) -> int:
        form = self._order + form
        size = struct.calcsize(form)
        self.need(size)
        (found,) = struct.unpack_from(form, self._content, self._at)
        self._at += size
        return found

    def text(self) -> None:
        self.skip(self.number("Q"))

    def value(self, kind: int, depth: int) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _TEXT:
            self.text()
        elif kind == _ARRAY and depth < _DEEPEST:
            self._array(depth)
        else:
            self.refuse(f"names a value of type {kind}, which is none")

    def _array(self, depth: int) -> None:
        kind, count = self.number("I"), self.number("Q")
        self._items += count
        if self._items > _MOST_ITEMS:
            self.refuse(f"names arrays of {self._items:,} items, more than {_MOST_ITEMS:,}")
        if kind in _SIZES:
            self.skip(count * _SIZES[kind])
            return
        self.need(count * 8)  # a text and an array have at least their length
        for _ in range(count):
            self.value(kind, depth + 1)
