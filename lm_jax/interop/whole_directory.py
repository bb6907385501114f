"""A directory that appears whole or not at all."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from lm_jax.errors import UserError


@contextlib.contextmanager
def whole_directory(directory: Path, flag: str) -> Iterator[Path]:
    """Yields a directory to write to, which then becomes `directory`; after an error it is removed.

    Args:
      flag: what names the directory on the command line, for the message.

    Raises:
      UserError: the directory is not empty.
      OSError: a file cannot be written; names it as it is called in `directory`.
    """
    given, directory = directory, directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{flag}={given} is not empty; choose another")
    # Its own name, since another process may write the same directory.
    partial = directory.with_name(f"{directory.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    except OSError as error:
        if not str(error.filename or "").startswith(str(partial)):
            raise
        inside = str(error.filename).replace(str(partial), str(given), 1)
        raise OSError(error.errno, error.strerror, inside) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
