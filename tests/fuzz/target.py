"""A reader of files that others may have written, and how it is attacked."""

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax.errors import UserError


def as_it_is(content: bytes) -> bytes:
    """Returns the content."""
    return content


class Target(NamedTuple):
    """A reader, and the file that it reads."""

    name: str
    file: str
    seed: Callable[[], bytes]
    read: Callable[[Path], object]
    beside: Mapping[str, str | bytes] = {}  # other files of the folder
    examples: int = 24  # of the quick test
    pack: Callable[[bytes], bytes] = as_it_is
    """Makes the file of what is damaged: a checksum would refuse damage of what is packed."""

    def prepare(self, folder: Path) -> None:
        """Writes the other files of the folder."""
        for name, content in self.beside.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def write(self, folder: Path, content: bytes) -> Path:
        """Writes the file."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.pack(content))
        return path


def attack(target: Target, folder: Path, content: bytes) -> None:
    """Reads a damaged file; raises what is neither a UserError nor an OSError."""
    path = target.write(folder, content)
    with contextlib.suppress(UserError, OSError):
        target.read(path)


def json_of(value: Any) -> Callable[[], bytes]:
    """Returns a seed of JSON."""
    return lambda: json.dumps(value).encode()


def text_of(text: str) -> Callable[[], bytes]:
    """Returns a seed of text."""
    return lambda: text.encode()


def saved(write: Callable[[Path], object]) -> Callable[[], bytes]:
    """Returns a seed that a library writes to a file."""

    @functools.cache
    def seed() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "seed"
            write(path)
            return path.read_bytes()

    return seed
