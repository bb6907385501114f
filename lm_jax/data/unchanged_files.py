"""Remembers what was prepared from which files, so that files that did not change are not read."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from lm_jax.atomic_files import write_bytes
from lm_jax.data.files import local_files
from lm_jax.errors import UserError
from lm_jax.json_values import read_as

_RECENT = (
    2e9  # nanoseconds: a file that changed so recently may change again and show it by nothing
)


class Prepared(NamedTuple):
    """What was made of some files."""

    key: str  # of the cache
    description: dict[str, Any]


class _Kept(TypedDict):
    key: str
    description: dict[str, Any]


class Memory(NamedTuple):
    """Where it stands what a configuration gave for files in their present state."""

    path: Path

    def recall(self) -> Prepared | None:
        """Returns what was prepared from the same files; None: nothing that can be read."""
        try:
            found = read_as(self.path, _Kept)
        except (OSError, UserError):
            return None
        return Prepared(found["key"], found["description"])

    def keep(self, prepared: Prepared) -> None:
        """Writes what was prepared, whole or not at all.

        Raises:
          OSError: it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, json.dumps(prepared._asdict()).encode())


def memory_of(
    patterns: Sequence[str], choices: Mapping[str, Any], directory: Path
) -> Memory | None:
    """Returns where it stands what these files gave; None: they changed just now, or are remote.

    A file is told by its name, size, inode and times of change, as version control does.

    Args:
      patterns: files, directories or patterns.
      choices: all else that decides what becomes of them, as JSON.
      directory: of the cache.
    """
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True).encode())
    newest = 0
    for pattern in patterns:
        if "://" in pattern:
            return None
        digest.update(os.path.abspath(pattern).encode() + b"\0")
        states = []
        for name, state in local_files(pattern):
            modified, changed = state.st_mtime_ns, state.st_ctime_ns
            if modified > newest:  # `max` takes three times as long: there may be 200,000 files
                newest = modified
            if changed > newest:
                newest = changed
            states.append(f"{name}\0{state.st_size} {state.st_ino} {modified} {changed}\0")
        states.sort()
        digest.update("".join(states).encode("utf-8", "surrogateescape"))
    if newest > time.time_ns() - _RECENT:
        return None
    return Memory(directory / "unchanged" / f"{digest.hexdigest()[:32]}.json")
