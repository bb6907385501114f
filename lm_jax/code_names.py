"""Names of code outside this package, `file.py:ATTRIBUTE` or `module:ATTRIBUTE`; nothing is run."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path


def is_name(text: str) -> bool:
    """Returns whether a text has the form of a name of code."""
    where, colon, _ = text.rpartition(":")
    is_module = all(part.isidentifier() for part in where.split("."))
    return bool(colon) and (where.endswith(".py") or is_module)


def absolute(name: str) -> str:
    """Returns a choice as it is recorded: with the absolute path of a `file.py:ATTRIBUTE`."""
    where, colon, attribute = name.rpartition(":")
    is_file = colon and where.endswith(".py")
    return f"{Path(where).resolve()}:{attribute}" if is_file else name


def code_of(name: str) -> str | None:
    """Returns `FILE:ATTRIBUTE`, the code that a name stands for here; None: there is none.

    The file is an absolute path without links. A module is where an import would find it, and its
    own name where it has no file. As in `choices.import_object`, a file that is gone is looked for
    as a module of its name.
    """
    where, _, attribute = name.rpartition(":")
    if "\n" in name or not is_name(name):
        return None
    try:
        if where.endswith(".py"):
            if Path(where).is_file():
                return absolute(name)
            where = Path(where).stem
        place = _place_of(where)
    except (OSError, ValueError, ImportError):  # a name that is too long, or holds NUL
        return None
    return None if place is None else f"{place}:{attribute}"


def _place_of(module: str) -> str | None:
    """Returns the file of a module, which is not imported: that would run its parents."""
    if known := sys.modules.get(module):
        file = getattr(known, "__file__", None)
        return str(Path(file).resolve()) if isinstance(file, str) else module
    spec = _find(module)
    if spec is None:
        return None
    has_file = spec.has_location and spec.origin is not None
    return str(Path(spec.origin or "").resolve()) if has_file else module


def _find(module: str) -> ModuleSpec | None:
    """Returns what an import would load; `importlib.util.find_spec` imports the parents."""
    package, _, _ = module.rpartition(".")
    places = _places_in(package) if package else None
    if package and places is None:
        return None
    for finder in sys.meta_path:
        if spec := finder.find_spec(module, places):
            return spec
    return None


def _places_in(package: str) -> list[str] | None:
    """Returns the folders in which the modules of a package are; None: it is none."""
    if known := sys.modules.get(package):
        places = getattr(known, "__path__", None)
        return None if places is None else list(places)
    try:
        spec = _find(package)
    except KeyError:  # of a folder without __init__.py, whose parent is not imported
        parent, _, name = package.rpartition(".")
        folders = [Path(place) / name for place in _places_in(parent) or []]
        return [str(folder) for folder in folders if folder.is_dir()] or None
    found = None if spec is None else spec.submodule_search_locations
    return None if found is None else list(found)
