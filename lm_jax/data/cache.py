"""Directories that are made once, whole or not at all, and read ever after."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from lm_jax.data.documents import TokenizedDocuments

T = TypeVar("T")


def cached(
    place: Path,
    make: Callable[[], T],
    write: Callable[[T, Path], None],
    read: Callable[[Path], T],
) -> T:
    """What `read` finds at `place`, where `write` has put what `make` makes if nothing was there.

    A crash of the machine may leave the names of files only; what cannot be read is made anew.

    Raises:
      OSError: the directory cannot be written; and all that `make` raises, before it is.
    """
    if place.exists():
        try:
            return read(place)
        except (OSError, EOFError, ValueError):
            shutil.rmtree(place)
    made = make()
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
    try:
        write(made, partial)
        os.replace(partial, place)
    except OSError:
        if not place.exists():  # else another process was first, with the same
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read(place)


def save_documents(documents: TokenizedDocuments, directory: Path, name: str) -> None:
    """Writes what `load_documents` reads."""
    for field, array in documents._asdict().items():
        np.save(directory / f"{name}_{field}.npy", array)


def load_documents(directory: Path, name: str) -> TokenizedDocuments:
    """Documents of a directory, mapped into memory."""
    arrays = {
        field: np.load(directory / f"{name}_{field}.npy", mmap_mode="r")
        for field in TokenizedDocuments._fields
    }
    return TokenizedDocuments(**arrays)
