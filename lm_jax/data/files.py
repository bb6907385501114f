"""Which files a path names, on this machine or where fsspec reaches."""

import glob
import io
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lm_jax.data.saved_datasets import without_metadata
from lm_jax.errors import UserError

_PACKED = (".gz", ".bz2", ".xz", ".zst")


class SourceFile(NamedTuple):
    """A file of a corpus."""

    path: str  # or URL, as messages name it
    name: str  # names its documents: the path below the directory that was given
    open: Callable[[], BinaryIO]
    given_by: str = "data.path"  # the field or the flag, for messages


def local_file(path: Path, name: str = "", given_by: str = "data.path") -> SourceFile:
    """Returns a file of this machine, which need not exist until it is opened."""
    return SourceFile(str(path), name or path.name, partial(io.FileIO, path), given_by)


def find_sources(path: str, field: str = "data.path") -> list[SourceFile]:
    """Returns the files of a path as `find_files` does; a URL is looked up through fsspec.

    Raises:
      UserError: there are none, or the package for such URLs is missing.
    """
    if "://" in path:
        return _remote_files(path, field)
    found, folder = find_files(path, field), Path(path)
    if not folder.is_dir():
        return [local_file(file, given_by=field) for file in found]
    above = len(os.path.join(folder, "")) if folder.parts else 0
    return [local_file(file, str(file)[above:], field) for file in found]


def find_files(path: str, field: str = "data.path") -> list[Path]:
    """Returns the file of a path, all files of a directory, or those that match a pattern.

    A data set that Hugging Face `datasets` saved is its files of data.

    Args:
      field: what gives the path, for the message.

    Raises:
      UserError: there are none.
    """
    # By their parts, as paths are sorted: `Path` itself compares slowly.
    paths = sorted((Path(entry) for entry, _ in local_files(path)), key=lambda file: file.parts)
    if not paths and os.path.isdir(path):
        raise UserError(
            f"{field} {path!r} (from {os.getcwd()}) is a folder without files; hidden files and "
            "folders are left out"
        )
    if not paths:
        raise UserError(
            f"no file matches {field} {path!r} (from {os.getcwd()}); give a file, a directory or a "
            "pattern"
        )
    by_name = {str(file): file for file in paths}
    kept = without_metadata(list(by_name), lambda name: by_name[name].read_bytes())
    return [by_name[name] for name in kept]


def local_files(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the file of a path, all files of a directory, or those that match a pattern.

    They come in any order, with what the file system says of each.
    """
    if os.path.isdir(path):
        folders = [path]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):  # as in `_is_hidden`
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file():
                        yield entry.path, entry.stat()
        return
    # Whatever the name of a file holds: `[` is no pattern then.
    names = [path] if os.path.isfile(path) else glob.glob(path, recursive=True)
    for name in names:
        try:
            state = os.stat(name)
        except OSError:  # such as a link to nothing
            continue
        if stat.S_ISREG(state.st_mode):
            yield name, state


def _is_hidden(parts: tuple[str, ...]) -> bool:
    """Returns whether it belongs to an editor or to version control, and not to the corpus."""
    return any(part.startswith(".") for part in parts)


def _remote_files(url: str, field: str) -> list[SourceFile]:
    try:
        import fsspec
    except ImportError:
        raise UserError(
            f"{field} {url!r} is remote, which needs fsspec: pip install -e '.[data]'"
        ) from None
    protocol = url.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # the message names the package
        raise UserError(f"{field} {url!r} needs one more package: {error}") from None
    except ValueError as error:
        raise UserError(
            f"{field} {url!r}: fsspec does not know {protocol}:// ({error}); expected one such as "
            "gs://, s3:// or hf://"
        ) from None
    try:
        if system.isfile(path):
            names, folder = [path], ""
        elif system.isdir(path):
            folder = path.rstrip("/") + "/"
            names = [name for name in system.find(path) if not _is_hidden(_below(folder, name))]
        else:
            names, folder = [name for name in system.glob(path) if system.isfile(name)], ""
        kept = without_metadata(sorted(names), system.cat_file)
    except UserError:
        raise
    except Exception as error:  # each file system raises types of its own
        raise UserError(f"{field} {url!r} cannot be listed ({_reason(error)})") from None
    if not kept:
        raise UserError(f"no file matches {field} {url!r}")
    return [
        SourceFile(
            system.unstrip_protocol(name),
            name.removeprefix(folder) if folder else name.rpartition("/")[2],
            partial(system.open, name, "rb"),
            field,
        )
        for name in kept
    ]


def _below(folder: str, name: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(folder).split("/"))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def name_in(path: str, file: Path) -> str:
    """Returns how messages call a file that `find_files` found: its path below a directory."""
    return str(file.relative_to(path)) if Path(path).is_dir() else file.name


def format_suffix(path: str | Path) -> str:
    """Returns the suffix of a file's name, such as `.jsonl`, without that of its compression."""
    name, suffix = os.path.splitext(path)
    return os.path.splitext(name)[1] if suffix in _PACKED else suffix
