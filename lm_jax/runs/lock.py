"""Keeps a second training out of a work directory, on this machine and on others that share it.

The owner of `running.json` is told by its machine, its process id and when that process started. It
touches the file every 10 s, for other machines, which cannot see whether the process lives.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypedDict

from lm_jax.errors import UserError, names_path
from lm_jax.json_values import fault_of, parse

_NAME = "running.json"
_HEARTBEAT_SECONDS = 10.0
_DEAD_SECONDS = 60.0  # an owner on another machine without a sign of life for so long is gone


class Owner(TypedDict):
    """The process that trains in a work directory."""

    host: str
    machine: str  # a start of a machine and a namespace of process ids on it
    pid: int
    started: str  # of the process, since process ids are used again
    token: str  # of this lock


class Holder(NamedTuple):
    """The process that trains in a work directory, or did until it was killed."""

    host: str  # "" and 0 where the file is damaged
    pid: int
    lives: bool
    silent_seconds: float  # since its last sign of life


class _State(NamedTuple):
    owner: Owner | None  # None: the file is damaged, or still empty
    touched: int  # nanoseconds, of the file system's clock


@contextlib.contextmanager
def locked(directories: Sequence[Path]) -> Iterator[None]:
    """Holds work directories, which are made if they are missing, while the block runs.

    Raises:
      UserError: another process trains in one of them.
      OSError: a directory cannot be written.
    """
    own = Owner(
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        token=uuid.uuid4().hex,
    )
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        for directory in directories:
            stack.enter_context(_held(directory, own))
        paths = [directory / _NAME for directory in directories]
        heart = threading.Thread(target=_beat, args=(paths, own, ended), daemon=True)
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join()


def holder(directory: Path) -> Holder | None:
    """Returns who holds a work directory, None if nobody does; writes nothing there.

    A process of another machine lives if it gave a sign within a minute, by this machine's clock.

    Raises:
      OSError: the file cannot be read.
    """
    try:
        with (directory / _NAME).open("rb") as file:
            found = _state(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    silent = max(time.time() - found.touched / 1e9, 0.0)
    if found.owner is None:
        return Holder("", 0, silent < _DEAD_SECONDS, silent)
    owner, lives = found.owner, silent < _DEAD_SECONDS
    if owner["machine"] == _machine():
        lives = _started(owner["pid"]) == owner["started"]
    return Holder(owner["host"], owner["pid"], lives, silent)


@contextlib.contextmanager
def _held(directory: Path, own: Owner) -> Iterator[None]:
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _NAME
    try:
        while not _create(path, own):
            _remove_if_dead(path, own)
        try:
            yield
        finally:
            if _owner(path) == own:
                path.unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):  # it holds a run
            for each in made:
                each.rmdir()


def _create(path: Path, own: Owner) -> bool:
    try:
        with names_path(path), path.open("x", encoding="utf-8") as file:  # atomic, also over NFS
            json.dump(own, file)
    except FileExistsError:
        return False
    except OSError:  # of a full disk: half of a lock would be held against the next start
        path.unlink(missing_ok=True)
        raise
    return True


def _remove_if_dead(path: Path, own: Owner) -> None:
    """Removes the lock of a process that is gone. Raises UserError if its owner lives."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        found = _state(file)
        if found.owner and found.owner["machine"] == own["machine"]:
            if _started(found.owner["pid"]) == found.owner["started"]:
                raise _in_use(path, found.owner)
        else:
            _await_death(path, found)
        # One process removes it, and none removes the lock that comes after it.
        with contextlib.suppress(OSError):  # a file system without such locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            path.unlink()


def _await_death(path: Path, found: _State) -> None:
    """Returns when the file was not touched for a minute.

    Raises:
      UserError: it was touched.
      FileNotFoundError: it was removed.
    """
    deadline, told = time.monotonic() + _DEAD_SECONDS, False
    while time.monotonic() < deadline and _age(path, found) < _DEAD_SECONDS:
        time.sleep(_HEARTBEAT_SECONDS / 10)
        with path.open("rb") as file:  # which asks a network file system for its present times
            now = _state(file)
        if now != found and now.owner:
            raise _in_use(path, now.owner)
        found = now
        if not told:
            who = f"process {now.owner['pid']} on {now.owner['host']}" if now.owner else "a process"
            print(
                f"{path.parent} is held by {who}; waiting for up to {_DEAD_SECONDS:.0f} s for a "
                "sign of its life",
                file=sys.stderr,
                flush=True,
            )
            told = True


def _age(path: Path, found: _State) -> float:
    """Returns how long ago the file was touched, in seconds, by the clock of its file system."""
    probe = path.with_name(f".{_NAME}.{uuid.uuid4().hex}")
    probe.touch()
    now = probe.stat().st_mtime_ns
    probe.unlink()
    return (now - found.touched) / 1e9


def _beat(paths: Sequence[Path], own: Owner, ended: threading.Event) -> None:
    while not ended.wait(_HEARTBEAT_SECONDS):
        for path in paths:
            with contextlib.suppress(OSError):  # a file system may be away for a while
                if _owner(path) == own:
                    os.utime(path)


def _state(file: BinaryIO) -> _State:
    try:
        owner = parse(file.read())
    except ValueError:
        owner = None
    touched = os.fstat(file.fileno()).st_mtime_ns
    return _State(None if fault_of(owner, Owner) else owner, touched)


def _owner(path: Path) -> Owner | None:
    try:
        with path.open("rb") as file:
            return _state(file).owner
    except OSError:
        return None


def _in_use(path: Path, owner: Owner | None) -> UserError:
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    return UserError(
        f"{who} is training in {path.parent}; wait for it or stop it, or choose another --workdir"
    )


def _machine() -> str:
    """Returns what tells this start of this machine, and its process ids, from all others."""
    found = socket.gethostname()
    with contextlib.suppress(OSError):  # not on Linux
        found += f" {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
        found += f" {os.readlink('/proc/self/ns/pid')}"
    return found


def _started(pid: int) -> str:
    """Returns when a process of this machine started, in ticks; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        try:  # not on Linux: a process id that is used again passes for the same process
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "unknown"
    return "" if fields[0] in "ZX" else fields[19]  # proc_pid_stat(5): 3 is the state, 22 the start
