"""Names of files that a file which anybody may have written gives: they stay in its folder."""

from pathlib import PurePosixPath


def is_file_name(name: str) -> bool:
    """Returns whether a text names a file of a folder, and no other place."""
    return is_below(name) and PurePosixPath(name).name == name


def is_below(name: str) -> bool:
    """Returns whether a text names a file at any depth below a folder; links are not looked at."""
    path = PurePosixPath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
    )
