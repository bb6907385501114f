"""Choices by name: a dictionary whose keys are what can be chosen, or an object from outside.

An object outside this package is named `module:ATTRIBUTE` or `path/to/file.py:ATTRIBUTE`. To choose
it runs its code, so a name that a file on disk holds needs the user's consent: `trusted_code`.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from lm_jax import trusted_code
from lm_jax.code_names import is_name
from lm_jax.errors import UserError

T = TypeVar("T")


def choose(choices: Mapping[str, Any], name: str, field: str) -> Any:
    """Returns the choice of this name, or the object that `module:ATTRIBUTE` names.

    Args:
      field: what is chosen, such as `optimizer.name`, for the message.

    Raises:
      UserError: there is no such choice, or it cannot be imported, or a file on disk names it and
        the user does not trust it.
    """
    if isinstance(name, str) and name in choices:  # an edited file may hold anything
        return choices[name]
    if isinstance(name, str) and ":" in name:
        trusted_code.check(name, field)
        found = import_object(name, field)
        trusted_code.allow([name])  # where a file that is read later names it, too
        return found
    raise UserError(f"{field} is {name!r}; expected one of {', '.join(choices)}")


def import_object(name: str, field: str) -> Any:
    """Returns the object that `module:ATTRIBUTE` or `file.py:ATTRIBUTE` names, whoever names it.

    A file that is no longer where it was is looked for as a module of the same name.

    Raises:
      UserError: it cannot be imported, or has no such attribute.
    """
    where, _, attribute = name.rpartition(":")
    is_file = where.endswith(".py")
    if not is_name(name):
        raise UserError(f"{field} is {name!r}; expected module:ATTRIBUTE or file.py:ATTRIBUTE")
    file = Path(where) if is_file else None
    try:
        if file is not None and file.is_file():
            return _attribute(load_file(file), attribute, name, field)
        module = importlib.import_module(file.stem if file else where)
    except ImportError as error:
        if file:
            raise _no_file(name, field, str(error)) from error
        raise UserError(
            f"{field} is {name!r}, which cannot be imported ({error}); put its folder on PYTHONPATH"
        ) from error
    if file and not hasattr(module, attribute):  # a folder or another module of the file's name
        found = module.__file__ or f"the folder {', '.join(module.__path__)}"
        raise _no_file(name, field, f"{found} has no {attribute}")
    return _attribute(module, attribute, name, field)


def _attribute(module: ModuleType, attribute: str, name: str, field: str) -> Any:
    if not hasattr(module, attribute):
        raise UserError(f"{field} is {name!r}, but {module.__file__} has no {attribute}")
    return getattr(module, attribute)


def _no_file(name: str, field: str, found: str) -> UserError:
    """Returns the error of a file that is gone.

    Args:
      found: what the module of the same name is.
    """
    file = Path(name.rpartition(":")[0])
    return UserError(
        f"{field} is {name!r}, but there is no file {file}, nor a module {file.stem} on PYTHONPATH "
        f"({found}); restore the file or set PYTHONPATH"
    )


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Runs the file that a user looked at, never bytecode that came with it in __pycache__."""

    def get_code(self, fullname: str) -> CodeType:
        """Returns the code of the source."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def load_file(path: Path) -> ModuleType:
    """Returns the module of a Python file anywhere, which runs once in a process.

    Its folder joins the import path, as the folder of a script does.

    Raises:
      UserError: the file has a syntax error, or a module that it imports is missing.
    """
    path = path.resolve()
    for module in list(sys.modules.values()):
        if _is_of_file(module, path):
            return module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):x}" if taken else path.stem
    loader = _SourceLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported ({type(error).__name__}: {error})") from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def name_of(
    choices: Mapping[str, T], is_it: Callable[[Any], bool], module: str
) -> tuple[str, T] | None:
    """Returns a choice and the name under which `choose` finds it; None where there is none.

    Args:
      is_it: tells the choice from other objects.
      module: where it is defined, at top level, if it is not among the choices.
    """
    for name, known in choices.items():
        if is_it(known):
            return name, known
    found = sys.modules.get(module)
    for attribute, value in vars(found).items() if found else ():
        if is_it(value):
            return f"{_address(found)}:{attribute}", value
    return None


def _is_of_file(module: Any, path: Path) -> bool:
    """Returns whether a module is that of a file, without resolving the paths of them all."""
    file = getattr(module, "__file__", None)
    try:
        return isinstance(file, str) and os.path.samefile(file, path)
    except OSError:
        return False


def _file_of(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _address(module: Any) -> str:
    """Returns a module's dotted name if it is installed or part of this package, else its file."""
    file = _file_of(module)
    installed = [sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib")]
    roots = [*map(Path, installed), Path(__file__).parent]
    if file is None or any(file.is_relative_to(root.resolve()) for root in roots):
        return module.__name__
    return str(file)
