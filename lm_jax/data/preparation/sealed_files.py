"""Files that the phases of a preparation leave for each other, each with a digest.

The digest of `FOLDER/FILE` stands in `work/digests/FOLDER/FILE`. It is written when the file is
complete and compared before the file is read. A file that is missing, is cut or has another bit
raises `Damaged`, and `prepare` makes the corpus anew.
"""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
from datatrove.io import DataFolder

from lm_jax.data.cache import Damaged
from lm_jax.digests import digest_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_DIGESTS = "digests"
_MARK = "damaged"  # says to the next call what a job on another machine found


class SealedWriter(io.BufferedIOBase):
    """A new file of bytes whose digest is written when it is closed.

    Args:
      work: the directory of the work, beside those of the corpus.
      path: the file.
      name: the name that the file will have in its folder; None: it is the name of `path`.
    """

    def __init__(self, work: Path, path: Path, name: str | None = None):
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._sealed = work, path.with_name(name or path.name)
        self._digest = xxhash.xxh3_64()

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, content: "ReadableBuffer") -> int:
        """Writes bytes. Raises OSError."""
        self._digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        """Hands the bytes to the system. Raises OSError."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Closes the file and writes its digest. Raises OSError."""
        if not self.closed:
            self._abandon()
            _write_digest(*self._sealed, self._digest.hexdigest())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes the file, which gets no digest after an error."""
        self._abandon() if kind else self.close()

    def __del__(self) -> None:
        """Closes the file of a task that ended early."""
        with contextlib.suppress(AttributeError, OSError):  # it was never opened; the disk is full
            self._abandon()

    def _abandon(self) -> None:
        try:
            self._file.close()
        finally:
            super().close()


def seal(work: Path, *paths: Path) -> None:
    """Writes the digests of files that are complete. Raises OSError."""
    for path in paths:
        _write_digest(work, path, digest_of(path))


def remove(work: Path, path: Path) -> None:
    """Removes a file and its digest. Raises OSError."""
    _digest_path(work, path).unlink()
    path.unlink()


def check(work: Path, path: Path) -> Path:
    """Returns the path of a file that is as it was written.

    Raises:
      Damaged: it is not.
      OSError: it cannot be read.
    """
    expected = _digest_path(work, path)
    if not expected.exists():
        raise _damaged(work, path, "has no digest")
    if not path.exists():
        raise _damaged(work, path, "is missing")
    if digest_of(path).encode() != expected.read_bytes():
        raise _damaged(work, path, "has another digest than it was written with")
    return path


def checked_files(work: Path, folder: Path, pattern: str) -> list[Path]:
    """Returns the files of a folder that match a pattern, in the order of their names.

    Raises:
      Damaged: one is missing or is not as it was written.
      OSError: one cannot be read.
    """
    written = {path.name for path in _digest_path(work, folder).glob(pattern)}
    names = written | {path.name for path in folder.glob(pattern)}
    return [check(work, folder / name) for name in sorted(names)]


def noted_damage(work: Path) -> str:
    """Returns what an earlier call or a job found damaged, in a phrase; "" if nothing."""
    with contextlib.suppress(FileNotFoundError):
        return (work / _MARK).read_text("utf-8", "replace")
    return ""


class SealedFolder(DataFolder):
    """A folder of the work as datatrove's blocks take it: sealed when written, checked when read.

    Args:
      path: the folder.
      work: the directory of the work, which holds it.
    """

    def __init__(self, path: str, *, work: str):
        super().__init__(path)
        self._work, self._folder = Path(work), Path(path)
        self._digests = DataFolder(str(_digest_path(self._work, self._folder)))

    def is_local(self) -> bool:
        """Returns False: else NumPy writes past `SealedWriter`, and ignores a full disk."""
        return False

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        """Opens a file to read or to write. Raises Damaged or OSError."""
        if "w" in mode:
            return SealedWriter(self._work, self._folder / path)
        check(self._work, self._folder / path)
        return super().open(path, mode, *args, **kwargs)

    def list_files(self, *args: Any, **kwargs: Any) -> list[str]:
        """Returns the files that are there, and those that are missing, which `open` refuses."""
        written = self._digests.list_files(*args, **kwargs)
        return sorted({*super().list_files(*args, **kwargs), *written})

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Returns whether a file is there, or was written and is missing."""
        return super().exists(path, **kwargs) or self._digests.exists(path, **kwargs)

    def isfile(self, path: str) -> bool:
        """Returns what `exists` returns."""
        return self.exists(path)


def _digest_path(work: Path, path: Path) -> Path:
    return work / _DIGESTS / path.relative_to(work.parent)


def _write_digest(work: Path, path: Path, digest: str) -> None:
    target = _digest_path(work, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(digest.encode())


def _damaged(work: Path, path: Path, what: str) -> Damaged:
    phrase = f"{path} {what}"
    with contextlib.suppress(OSError):  # else the next call finds the damage once more
        (work / _MARK).write_text(phrase)
    return Damaged(phrase)
