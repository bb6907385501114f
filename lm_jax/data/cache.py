"""Directories that are made once, whole or not at all, and read ever after."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lm_jax.data.documents import TokenizedDocuments

T = TypeVar("T")


def cache_directory(configured: str) -> Path:
    """Returns the directory of prepared data: the configured one, or the user's cache if ""."""
    if configured:
        return Path(configured)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "lm_jax" / "data"


def cached(
    directory: Path,
    make: Callable[[], T],
    write: Callable[[T, Path], None],
    read: Callable[[Path], T],
) -> T:
    """Returns what `read` finds in a directory, which `make` and `write` create if it is missing.

    A crash of the machine may leave files without their contents; what cannot be read is made anew.

    Raises:
      OSError: the directory cannot be written.
      Exception: whatever `make` raises; nothing is written then.
    """
    if directory.exists():
        try:
            return read(directory)
        except (OSError, EOFError, ValueError):
            shutil.rmtree(directory)
    made = make()
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    try:
        write(made, partial)
        os.replace(partial, directory)
    except OSError:
        if not directory.exists():  # else another process wrote the same first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read(directory)


def save_split(split: NamedTuple, directory: Path, name: str) -> None:
    """Writes one split, a NamedTuple of tokenized documents, arrays and lists of JSON values."""
    for field, value in split._asdict().items():
        path = directory / f"{name}_{field}"
        if isinstance(value, TokenizedDocuments):
            save_split(value, directory, path.name)
        elif isinstance(value, np.ndarray):
            np.save(f"{path}.npy", value)
        else:
            Path(f"{path}.json").write_text(json.dumps(value))


def split_bytes(split: NamedTuple) -> int:
    """Returns about how many bytes `save_split` writes."""
    return sum(
        split_bytes(value)
        if isinstance(value, TokenizedDocuments)
        else value.nbytes
        if isinstance(value, np.ndarray)
        else len(json.dumps(value))
        for value in split._asdict().values()
    )


def load_split(kind: type[T], directory: Path, name: str) -> T:
    """Returns the split of this type that `save_split` wrote, its arrays mapped into memory.

    Inner lists come back as tuples.

    Raises:
      OSError, ValueError: a file is missing or damaged.
    """
    values: dict[str, Any] = {}
    for field in kind._fields:  # type: ignore[attr-defined]
        path = directory / f"{name}_{field}"
        if Path(f"{path}.npy").exists():
            values[field] = np.load(f"{path}.npy", mmap_mode="r")
        elif Path(f"{path}.json").exists():
            found = json.loads(Path(f"{path}.json").read_text())
            values[field] = [tuple(v) if isinstance(v, list) else v for v in found]
        else:
            values[field] = load_split(TokenizedDocuments, directory, path.name)
    return kind(**values)
