"""Digests of files, written beside them and compared when they are read: silent damage shows.

Disks, memory and copies flip bits, and array data has no checksum of its own. The digest is XXH3
(github.com/Cyan4973/xxHash): it finds damage faster than memory delivers the bytes, and does not
protect against forgery. Each block has its own, so that threads and processes share a large file.
"""

import contextlib
import json
import os
import random
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import xxhash

from lm_jax.file_names import is_below
from lm_jax.json_values import parse

MANIFEST = "digests.json"
_BLOCK = 16 * 2**20  # bytes
_CHUNK = 2**20  # bytes that are read at once: they stay in a core's cache
_THREADS = min(8, os.cpu_count() or 1)

Blocks = Mapping[str, list[str]]  # the digests of a file's blocks, by its path in the directory


class _Block(NamedTuple):
    name: str
    number: int
    expected: str


def digests_of(
    directory: Path, is_counted: Callable[[str], bool] = lambda name: True
) -> dict[str, list[str]]:
    """Returns the digests of the files in a directory, and in the folders of it.

    Args:
      is_counted: (path in the directory, with slashes) -> whether the file has a digest.

    Raises:
      OSError: a file cannot be read.
    """
    names = sorted(path.relative_to(directory).as_posix() for path in _files(directory))
    sizes = {name: (directory / name).stat().st_size for name in filter(is_counted, names)}
    blocks = [(name, number) for name, size in sizes.items() for number in range(_count(size))]
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda block: _digest(directory / block[0], block[1], _BLOCK), blocks)
        found: dict[str, list[str]] = {name: [] for name in sizes}
        for (name, _), digest in zip(blocks, digests, strict=True):
            found[name].append(digest)
    return found


def write_manifest(directory: Path, digests: Blocks | None = None) -> None:
    """Writes `digests.json`, after which the files of a directory must not change.

    Args:
      digests: of all files; None: compute them.

    Raises:
      OSError: a file cannot be read, or the manifest cannot be written.
    """
    digests = digests_of(directory) if digests is None else digests
    (directory / MANIFEST).write_text(json.dumps({"algorithm": "xxh3_64", "files": digests}))


def find_damage(
    directory: Path, *, share: int = 0, num_shares: int = 1, most_bytes: float = float("inf")
) -> str:
    """Returns what is wrong with the files that a manifest lists, in a phrase; "" if nothing is.

    A directory without a manifest was written by an earlier version: nothing is known of it.

    Args:
      share: which part of the blocks to read, of `num_shares` equal ones that processes share.
      most_bytes: the most to read; blocks are chosen at random where there is more.
    """
    path = directory / MANIFEST
    if not path.exists():
        return ""
    try:
        listed = parse(path.read_bytes())["files"]
        if not all(map(is_below, listed)):  # the manifest may be a stranger's
            return f"{MANIFEST} names a file beyond its folder"
        blocks = [_Block(n, i, d) for n, digests in listed.items() for i, d in enumerate(digests)]
        for name, digests in listed.items():
            state = (directory / name).stat()
            if not stat.S_ISREG(state.st_mode):
                return f"{name} is no file"
            if _count(state.st_size) != len(digests):
                return f"{name} has another size than it was written with"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{MANIFEST}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return _first_damage(directory, _sample(blocks[share::num_shares], most_bytes))


def file_states(directory: Path) -> dict[str, tuple[int, ...]]:
    """Returns what changes when somebody writes a file: sizes, inodes and times, by name.

    Raises:
      OSError: the directory cannot be read.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in _files(directory):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            state = path.stat()
            times = state.st_mtime_ns, state.st_ctime_ns
            found[str(path.relative_to(directory))] = (state.st_size, state.st_ino, *times)
    return found


def find_change(directory: Path, before: Mapping[str, tuple[int, ...]]) -> str:
    """Returns which file was written since `file_states`, in a phrase; "" if none was.

    A file that was deleted since counts as unchanged: its bytes were those that the digests tell.
    """
    changed = (name for name, state in file_states(directory).items() if before.get(name) != state)
    return next((f"{name} changed while it was read" for name in changed), "")


def _sample(blocks: list[_Block], most_bytes: float) -> list[_Block]:
    if len(blocks) * _BLOCK <= most_bytes:
        return blocks
    return random.SystemRandom().sample(blocks, int(most_bytes // _BLOCK))


def _first_damage(directory: Path, blocks: Iterable[_Block]) -> str:
    def check(block: _Block) -> str:
        try:
            found = _digest(directory / block.name, block.number, _BLOCK)
        except OSError as error:
            return f"{block.name}: {error.strerror}"
        return "" if found == block.expected else f"{block.name} is damaged: its digest differs"

    with ThreadPoolExecutor(_THREADS) as pool:
        return next(filter(None, pool.map(check, blocks)), "")


def _files(directory: Path) -> Iterable[Path]:
    return (path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)


def _count(size: int) -> int:
    """Returns the number of blocks of a file; an empty one has one."""
    return max(-(-size // _BLOCK), 1)


def digest_of(path: Path) -> str:
    """Returns the digest of a whole file. Raises OSError."""
    return _digest(path, 0, sys.maxsize)


def _digest(path: Path, number: int, most_bytes: int) -> str:
    digest, left = xxhash.xxh3_64(), most_bytes
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        file.seek(number * _BLOCK, os.SEEK_SET)
        # Not mapped into memory: a bad sector would end the process instead of raising OSError.
        while left and (count := file.readinto(view[: min(left, _CHUNK)])):
            digest.update(view[:count])
            left -= count
    return digest.hexdigest()
