"""Choices by name: a dictionary whose keys are what can be chosen, or an object from outside.

An object outside this package is named `module:ATTRIBUTE` or `path/to/file.py:ATTRIBUTE`.
"""

import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lm_jax.errors import UserError


def choose(choices: Mapping[str, Any], name: str, field: str) -> Any:
    """Returns the choice of this name, or the object that `module:ATTRIBUTE` names.

    Args:
      field: what is chosen, such as `optimizer.name`, for the message.

    Raises:
      UserError: there is no such choice, or it cannot be imported.
    """
    if name in choices:
        return choices[name]
    if ":" in name:
        return import_object(name, field)
    raise UserError(f"{field} is {name!r}; expected one of {', '.join(choices)}")


def import_object(name: str, field: str) -> Any:
    """Returns the object that `module:ATTRIBUTE` or `file.py:ATTRIBUTE` names.

    A file that is no longer where it was is looked for as a module of the same name.

    Raises:
      UserError: it cannot be imported, or has no such attribute.
    """
    where, _, attribute = name.rpartition(":")
    try:
        if not where.endswith(".py"):
            module = importlib.import_module(where)
        elif Path(where).is_file():
            module = load_file(Path(where))
        else:
            module = importlib.import_module(Path(where).stem)
    except ImportError as error:
        raise UserError(
            f"{field} is {name!r}, which cannot be imported ({error}); put its folder on PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        raise UserError(f"{field} is {name!r}, but {module.__file__} has no {attribute}")
    return getattr(module, attribute)


def load_file(path: Path) -> ModuleType:
    """Returns the module of a Python file anywhere; a file is run once a process.

    Its folder joins the import path, as that of a script does.
    """
    path = path.resolve()
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) and Path(str(module.__file__)).resolve() == path:
            return module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = path.stem
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        name = f"{name}_{abs(hash(path)):x}" if _found_elsewhere(name, path) else name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _found_elsewhere(name: str, path: Path) -> bool:
    if name in sys.modules:
        return True
    spec = importlib.util.find_spec(name)
    return spec is None or spec.origin is None or Path(spec.origin).resolve() != path


def name_of(choices: Mapping[str, Any], choice: Any, module: str) -> str | None:
    """Returns the name under which `choose` finds a choice; None where it has none.

    Args:
      module: where the choice is defined, at top level, if it is not among the choices.
    """
    for name, known in choices.items():
        if known is choice:
            return name
    found = sys.modules.get(module)
    for attribute, value in vars(found).items() if found else ():
        if value is choice:
            return f"{_address(found)}:{attribute}"
    return None


def _address(module: Any) -> str:
    """A module's dotted name if it is installed, else its file."""
    file = getattr(module, "__file__", None)
    installed = [Path(sysconfig.get_path(key)) for key in ("purelib", "platlib", "stdlib")]
    installed.append(Path(__file__).parents[1])
    if file is None or any(Path(file).resolve().is_relative_to(p.resolve()) for p in installed):
        return module.__name__
    return str(Path(file).resolve())
