"""The one type of error that a user can mend, told apart from faults of the code by its type.

An OSError is the user's to mend, too, and has to name a file.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
    """Says in one line what was given, what was expected, and what to do; programs print it."""

    def _render_traceback_(self) -> list[str]:
        """Returns what a notebook shows: the line alone, as programs do; `%debug` has the rest."""
        return [f"{type(self).__name__}: {self}"]


class MeshError(UserError):
    """A mesh does not fit the devices, the batches or the model."""


# A full disk, a quota and a limit on the size of files.
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Returns whether a full disk, a quota or a limit on the size of files caused an error."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    said = str(error).lower()  # orbax and tensorstore say it within other errors
    return any(os.strerror(number).lower() in said for number in _FULL)


@contextlib.contextmanager
def names_path(path: Path) -> Iterator[None]:
    """Adds the path to an OSError of the block that names no file, such as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        number, message = error.errno or errno.EIO, error.strerror or str(error)
        if error.errno is None and _SHORT_WRITE.fullmatch(message):  # NumPy on a full disk
            number, message = errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({message})"
        raise OSError(number, message, str(path)) from error
