"""Directories that are made once, whole or not at all, and read ever after."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lm_jax.data.arrays import map_array, save_array
from lm_jax.data.documents import TokenizedDocuments
from lm_jax.digests import file_states, find_change, find_damage, write_manifest
from lm_jax.errors import UserError, names_path
from lm_jax.json_values import parse

DESCRIPTION = "description.json"  # without it a directory is made anew
_MOST_BYTES = 4 * 2**30  # that a start verifies: some seconds, however large the token files

T = TypeVar("T")


class Damaged(ValueError):
    """Files changed since they were written."""


class MappedFiles(NamedTuple):
    """Files of a directory that are mapped into memory, as they were before their digests were."""

    directory: Path
    states: Mapping[str, tuple[int, ...]]  # `file_states`

    def refuse_change(self) -> None:
        """Raises UserError if a file was written, replaced or deleted since.

        A cache is made anew then: `refuse_damage` reads a sample of one that is large.
        """
        gone = sorted(self.states.keys() - file_states(self.directory).keys())
        change = f"{gone[0]} was deleted" if gone else find_change(self.directory, self.states)
        if not change:
            return
        with contextlib.suppress(OSError):  # another user's, or gone
            (self.directory / DESCRIPTION).unlink()
        raise UserError(
            f"{self.directory}: {change}, mapped into memory; nothing that was computed from it "
            "was saved since it was last checked: run the same command again, which prepares the "
            "data anew"
        )


def mapped_files(directory: Path) -> MappedFiles:
    """Returns the files of a directory before they are checked and mapped. Raises OSError."""
    return MappedFiles(directory, file_states(directory))


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

    What is written gets a manifest of digests (`refuse_damage`). What cannot be read is made anew;
    a line says so where bytes changed.

    Raises:
      OSError: the directory cannot be written.
      Exception: whatever `make` raises; nothing is written then.
    """
    if directory.exists():
        try:
            return read(directory)
        except (OSError, EOFError, ValueError) as error:
            if isinstance(error, Damaged):
                print(f"{error}; it is prepared anew", file=sys.stderr, flush=True)
            shutil.rmtree(directory, ignore_errors=True)  # another process may do so, too
    made = make()
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    try:
        with names_path(directory.parent):
            write(made, partial)
            write_manifest(partial)
        os.replace(partial, directory)
    except OSError:
        if not directory.exists():  # else another process wrote the same first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read(directory)


def refuse_damage(directory: Path) -> None:
    """Raises Damaged if the files of a directory are not as its manifest of digests says.

    It reads at most 4 GiB: blocks chosen at random where there are more, others at every start.
    """
    if damage := find_damage(directory, most_bytes=_MOST_BYTES):
        raise Damaged(f"{directory}: {damage}")


def save_split(split: NamedTuple, directory: Path, name: str) -> None:
    """Writes one split, a NamedTuple of tokenized documents, arrays and lists of JSON values."""
    for field, value in split._asdict().items():
        path = directory / f"{name}_{field}"
        if isinstance(value, TokenizedDocuments):
            save_split(value, directory, path.name)
        elif isinstance(value, np.ndarray):
            save_array(Path(f"{path}.npy"), value)
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
            values[field] = map_array(Path(f"{path}.npy"))
        elif Path(f"{path}.json").exists():
            found = parse(Path(f"{path}.json").read_bytes())
            values[field] = [tuple(v) if isinstance(v, list) else v for v in found]
        else:
            values[field] = load_split(TokenizedDocuments, directory, path.name)
    if kind is TokenizedDocuments:
        _check_documents(TokenizedDocuments(**values), f"{directory / name}_*")
    return kind(**values)


def _check_documents(found: TokenizedDocuments, name: str) -> None:
    """Raises ValueError if the arrays of tokenized documents do not belong together.

    A work directory may be a stranger's, without a manifest.
    """
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in found):
        raise ValueError(f"{name} are no lists of integers")
    starts = found.starts
    sizes = {len(array) for array in (found.characters, found.bytes, found.words, starts[1:])}
    if len(sizes) != 1 or not len(starts) or starts[0] or starts[-1] != len(found.tokens) - 1:
        raise ValueError(f"{name} are not of the same documents")
    if (starts[1:] < starts[:-1]).any():
        raise ValueError(f"{name} have starts that do not rise")
