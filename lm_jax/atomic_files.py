"""Files and directories that appear whole or not at all, written without following a link.

A work directory may be a stranger's: a link in it would make us write over its target, which can be
any file of ours. What is written replaces a link, or is refused where it would go through one.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lm_jax.errors import UserError, names_path

_LONGEST_NAME = 100  # characters of a name that its unfinished file shows


@contextlib.contextmanager
def open_atomically(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Opens a UTF-8 text file that replaces `path` when the block ends without an error.

    A reader sees the old file or the whole new one, never a part. A link is replaced, and its
    target stays as it is.

    Args:
      newline: as for `open`.

    Raises:
      OSError: it cannot be written; names `path`.
    """
    with _unfinished(path) as (partial, descriptor):
        with open(descriptor, "w", encoding="utf-8", newline=newline) as file:
            yield file
        _replace(partial, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file as `open_atomically` does."""
    with _unfinished(path) as (partial, descriptor):
        with open(descriptor, "wb") as file:
            file.write(content)
        _replace(partial, path)


def _replace(partial: Path, path: Path) -> None:
    try:
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[tuple[Path, int]]:
    """Opens a new file beside `path`, which is removed after an error."""
    partial = _beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        descriptor = os.open(partial, flags, 0o666)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    with names_path(path):
        try:
            yield partial, descriptor
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:_LONGEST_NAME]}.{uuid.uuid4().hex[:12]}.partial")


def open_to_append(path: Path) -> TextIO:
    """Opens a UTF-8 text file to append to, which is made if it is missing.

    Raises:
      UserError: it is a link.
      OSError: it cannot be written.
    """
    try:
        return open(path, "a", encoding="utf-8", opener=_open_no_link)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    raise _is_a_link(path)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def make_directory(path: Path) -> Path:
    """Returns a directory to write into, which is made if it is missing.

    Raises:
      UserError: it, or something in it, is a link.
      OSError: it cannot be made.
    """
    refuse_links(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_links(directory: Path) -> None:
    """Raises UserError if a directory, which may be missing, or something in it is a link."""
    if directory.is_symlink():
        raise _is_a_link(directory)
    if directory.is_dir():
        for entry in os.scandir(directory):
            if entry.is_symlink():
                raise _is_a_link(Path(entry.path))


def _is_a_link(path: Path) -> UserError:
    return UserError(
        f"{path} is a link, and files are written and deleted in no other place than the "
        "directory given; put what it leads to in its place"
    )


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory that becomes `path`, which is missing, when the block ends.

    After an error it is removed.
    """
    partial = _beside(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
