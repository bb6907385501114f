"""Which code from outside this package may run: what a user named, not what a file on disk names.

The directory of a stranger may name code in its `config.json`, and whoever evaluates it would run
that code. So all JSON that is read is searched for names of code (`note`), and `choices.choose`
asks `check` before it imports one. A name that no file was read with is the user's: typed, in a
configuration file or in Python. What runs and is written to disk is kept in a list of the user
(`remember`), so that runs of one's own are read back without a question.

The list is `lm_jax/trusted_code.txt` in XDG_STATE_HOME or ~/.local/state, one `FILE:ATTRIBUTE` a
line. It is only ever added to, in one write, so that processes need no lock.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lm_jax.atomic_files import open_to_append
from lm_jax.code_names import absolute, code_of, is_name
from lm_jax.errors import UserError


class UntrustedCode(UserError):
    """A file on disk names code that the user did not say to run."""


_VARIABLE = "LM_JAX_TRUSTED_CODE"  # code that may run in this process and in those it starts
_SHOWN = 5  # names in a message
_named_by: dict[str, str] = {}  # a name of code -> the file that was read with it
_state = {"consents": False, "says": True}


def note(value: Any, path: Path) -> None:
    """Notes the names of code in JSON that was read from a file: they are not the user's."""
    for text in _texts(value):
        if ":" in text and is_name(text):
            _named_by[text] = str(path)
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # no path of a file
                _named_by[absolute(text)] = str(path)


def _texts(value: Any) -> Iterator[str]:
    """Yields all texts in a JSON value but the keys of its objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            if type(inner) in (str, dict, list):  # most values of large files are numbers
                yield from _texts(inner)


def check(name: str, field: str) -> None:
    """Returns if the code of a name may run.

    Raises:
      UntrustedCode: a file on disk names it and this user does not trust it.
      UserError: a file on disk names it and it is not here.
    """
    origin = _named_by.get(name)
    if origin is None:
        return
    code = code_of(name)
    if code is None:
        where = name.rpartition(":")[0]
        what = f"file {where}, nor a module {Path(where).stem}"
        raise UserError(
            f"{field} is {name!r} in {origin}, but there is no "
            f"{what if where.endswith('.py') else f'module {where}'} on PYTHONPATH; restore the "
            "file or set PYTHONPATH"
        )
    if is_trusted(code):
        return
    codes = list(dict.fromkeys([code, *_untrusted_in(origin)]))
    if _state["consents"]:
        _trust(codes, origin)
        return
    more = f" and {len(codes) - _SHOWN} more" if len(codes) > _SHOWN else ""
    raise UntrustedCode(
        f"{origin} names code that would run: {', '.join(map(repr, codes[:_SHOWN]))}{more} "
        f"({field}); look at it and what it imports, then give --trust_code once, from Python "
        "lm_jax.load(path, trust_code=True)"
    )


def is_trusted(code: str) -> bool:
    """Returns whether code, as `code_of` returns it, may run whoever names it."""
    return code in _allowed() or code in _listed()


def consent() -> None:
    """Lets this process run the code that files name, which is trusted from then on."""
    _state["consents"] = True


def trust_named_in(path: Path) -> None:
    """Trusts the code that a file named when it was read, from now on."""
    if codes := _untrusted_in(str(path)):
        _trust(codes, str(path))


def allow(names: Iterable[str]) -> None:
    """Lets this process, and those that it starts, run code that the user named."""
    found = (code_of(name) for name in names if is_name(name))
    _allow(code for code in found if code is not None)


def allow_unless_read(names: Iterable[str]) -> None:
    """Allows names that may be of the user or of a file; those of a file are left as they are."""
    allow(name for name in names if name not in _named_by)


def remember(value: Any) -> None:
    """Adds the names of code in a value that is written to disk to the list, if they may run."""
    names = {text for text in _texts(value) if is_name(text)}
    allowed = _allowed()
    _list([code for code in map(code_of, sorted(names)) if code in allowed])


def list_path() -> Path | None:
    """Returns the list of the user's code; None: the user has no home."""
    root = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        root = root if root.is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return root / "lm_jax" / "trusted_code.txt"


def _untrusted_in(origin: str) -> list[str]:
    """Returns the code that a file names and that is not trusted.

    Texts of another meaning look like names, too: `json:tool`, or the mesh `data:1` beside a folder
    `data`. The standard library and what has no file are left out, and are asked for when used.
    """
    names = [name for name, path in _named_by.items() if path == origin]
    ours = [
        name
        for name in names
        if name.rpartition(":")[2].isidentifier()
        and name.split(":")[0].split(".")[0] not in _STANDARD
    ]
    codes = dict.fromkeys(code for code in map(code_of, ours) if code is not None)
    return [code for code in codes if os.path.isabs(code) and not is_trusted(code)]


_STANDARD = sys.stdlib_module_names


def _trust(codes: list[str], origin: str) -> None:
    _allow(codes)
    shown = ", ".join(map(repr, codes[:_SHOWN]))
    print(f"trusted from now on, as {origin} names it: {shown}", file=sys.stderr, flush=True)
    _list(codes)


def _allowed() -> set[str]:
    return set(os.environ.get(_VARIABLE, "").split("\n")) - {""}


def _allow(codes: Iterable[str]) -> None:
    before = _allowed()
    if added := set(codes) - before:
        os.environ[_VARIABLE] = "\n".join(sorted(before | added))


def _listed() -> set[str]:
    path = list_path()
    try:
        return set() if path is None else set(path.read_bytes().decode().split("\n")) - {""}
    except (OSError, UnicodeDecodeError):
        return set()


def _list(codes: Iterable[str | None]) -> None:
    """Adds code to the list; says so in a line where that cannot be, and goes on."""
    listed = _listed()
    added = dict.fromkeys(code for code in codes if code is not None and code not in listed)
    path = list_path()
    if not added:
        return
    reason = "there is no home directory"
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open_to_append(path) as file:
                file.write("".join(f"{code}\n" for code in added))
            return
        except (OSError, UserError, UnicodeEncodeError) as error:
            reason = " ".join(str(error).split())
    if _state["says"]:
        _state["says"] = False
        print(
            f"the code of this run is not remembered ({reason}); programs that read the run need "
            "--trust_code",
            file=sys.stderr,
            flush=True,
        )
