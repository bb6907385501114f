"""Corpora that every Python installation contains."""

import sysconfig
from pathlib import Path


def python_reference() -> list[str]:
    """Returns CPython's language reference, one document per topic, in alphabetical order."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def standard_library() -> list[str]:
    """Returns the source of Python's standard library, one document per file, sorted by path.

    It has 12 million characters, or 31 million where the tests of Python are installed. Files that
    are not UTF-8 are left out; some tests need such files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    installed = ("site-packages", "dist-packages")  # packages that do not belong to Python
    found = []
    for path in sorted(root.rglob("*.py")):
        if any(part in installed for part in path.relative_to(root).parts):
            continue
        try:
            found.append(path.read_bytes().decode("utf-8"))
        except UnicodeDecodeError:
            continue
    return found
