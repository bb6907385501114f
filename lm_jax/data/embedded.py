"""The corpora that every Python carries."""

import sysconfig
from pathlib import Path


def python_reference() -> list[str]:
    """CPython's language reference, one document a topic, in the order of their names."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def standard_library() -> list[str]:
    """The source of Python's standard library, one document a file, in the order of their paths.

    With its tests where they are installed: 31 million characters instead of 12. Files that are no
    UTF-8, which some tests are about, are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    installed = ("site-packages", "dist-packages")  # what is not Python's own
    found = []
    for path in sorted(root.rglob("*.py")):
        if any(part in installed for part in path.relative_to(root).parts):
            continue
        try:
            found.append(path.read_bytes().decode("utf-8"))
        except UnicodeDecodeError:
            continue
    return found
