"""Delays the writes of a process, or lets them fail, whatever library writes and on any disk.

Linux asks a second process about each system call that writes, makes or renames a file or makes a
directory (seccomp_unotify(2), from Linux 5.5 on, without root). That process finds out the file,
and answers with an error or, after a while, with leave to go on. What a program writes to files
that are mapped into memory is not its concern.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

from lm_jax.errors import UserError


class WriteFault(TypedDict):
    """What becomes of the writes to files in a folder; making and renaming one is a write, too."""

    folder: str  # absolute; other files are left alone
    pattern: str  # regular expression that the path in the folder contains
    skip: int  # writes to such files before the one that fails
    error: int  # errno; 0: none fails
    lasts: bool  # whether all later writes in the folder fail, too
    seconds: float  # that each write in the folder waits
    log: str  # a file with a line for each write in the folder; the one that failed begins with !


class _Named(NamedTuple):
    path: int  # which argument is the path, the new one
    folder: int | None = None  # which one is the descriptor that it is relative to


class _Machine(NamedTuple):
    audit: int  # AUDIT_ARCH_* of linux/audit.h
    seccomp: int  # number of the system call, as are the following
    writes: tuple[int, ...]  # write, pwrite64, writev, pwritev, fsync, fdatasync, ftruncate,
    # fallocate, sendfile; the first argument is the file
    opens: "dict[int, _Named]"  # open, openat; flags are the argument after the path
    names: "dict[int, _Named]"  # mkdir, mkdirat, rename, renameat, renameat2


_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        317,
        (1, 18, 20, 296, 74, 75, 77, 285, 40),
        {2: _Named(0), 257: _Named(1, 0)},
        {
            83: _Named(0),
            258: _Named(1, 0),
            82: _Named(1),
            264: _Named(3, 2),
            316: _Named(3, 2),
        },
    ),
    "aarch64": _Machine(
        0xC00000B7,
        277,
        (64, 68, 66, 70, 82, 83, 46, 47, 71),
        {56: _Named(1, 0)},
        {34: _Named(1, 0), 38: _Named(3, 2), 276: _Named(3, 2)},
    ),
}
# linux/prctl.h, linux/filter.h and linux/seccomp.h
_NO_NEW_PRIVILEGES, _MAY_BE_READ_BY = 38, 0x59616D61
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ARGUMENTS = 16  # where they begin in what a filter loads
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_SET_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_GO_ON = 1
_PAGE = 4096  # bytes
_NOTICE = struct.Struct("<QIIiIQ6Q")  # id, pid, flags, number, architecture, instruction, arguments
_ANSWER = struct.Struct("<QqiI")  # id, value, error, flags


def begin(fault: WriteFault) -> None:
    """Subjects this process, which has one thread, and its later threads and children to a fault.

    Raises:
      UserError: the system has no such means.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or platform.system() != "Linux":
        raise UserError(
            f"writes cannot be made to fail on {platform.system()} {platform.machine()}; "
            f"expected Linux on {' or '.join(_MACHINES)}"
        )
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        with contextlib.suppress(BaseException):
            _, (listener,), *_ = socket.recv_fds(theirs, 1, 1)
            theirs.close()
            _answer(listener, fault)
        os._exit(0)
    theirs.close()
    with ours:
        listener = _filter(machine)
        socket.send_fds(ours, [b"0"], [listener])
        os.close(listener)


def _filter(machine: _Machine) -> int:
    """Installs the filter of system calls; returns the descriptor that its notices come from."""
    steps = [(_LOAD, 0, 0, 4), (_JUMP_IF_EQUAL, 1, 0, machine.audit), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_LOAD, 0, 0, 0))
    for call, given in machine.opens.items():  # asked about where it may make the file
        flags = (_LOAD, 0, 0, _ARGUMENTS + 8 * (given.path + 1))
        steps += [(_JUMP_IF_EQUAL, 0, 4, call), flags, (_JUMP_IF_SET, 0, 1, os.O_CREAT)]
        steps += [(_RETURN, 0, 0, _ASK), (_RETURN, 0, 0, _ALLOW)]
    for call in (*machine.writes, *machine.names):
        steps += [(_JUMP_IF_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ASK)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    code = b"".join(struct.pack("<HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(
        struct.pack("@HP", len(steps), ctypes.addressof(held))  # struct sock_fprog
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.prctl(_MAY_BE_READ_BY, ctypes.c_ulong(-1 % 2**64), 0, 0, 0)  # paths are in our memory
    found: int = libc.syscall(machine.seccomp, _SET_FILTER, _NEW_LISTENER, program)
    if found < 0:
        why = os.strerror(ctypes.get_errno())
        raise UserError(f"writes cannot be made to fail here (seccomp: {why}); needs Linux 5.5")
    return found


def _answer(listener: int, fault: WriteFault) -> None:
    """Answers notices until the processes under the filter have ended."""
    left, is_struck = fault["skip"], False
    with open(fault["log"], "a", buffering=1) as log:
        for number, path in _notices(listener, Path(fault["folder"])):
            error = 0
            if path:
                if is_struck:
                    error = fault["error"] if fault["lasts"] else 0
                elif fault["error"] and re.search(fault["pattern"], path):
                    is_struck, left = left == 0, left - 1
                    error = fault["error"] if is_struck else 0
                    path = f"!{path}" if is_struck else path
                log.write(f"{path}\n")
                time.sleep(fault["seconds"])
            answer = _ANSWER.pack(number, 0, -error, 0 if error else _GO_ON)
            _control(listener, _SEND, bytearray(answer))


def _notices(listener: int, folder: Path) -> Iterator[tuple[int, str]]:
    """Yields the number of each notice and the path that is written, "" elsewhere."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while all(event & select.POLLIN for _, event in poll.poll()):  # else all have ended
        notice = bytearray(_NOTICE.size)
        if not _control(listener, _RECEIVE, notice):
            continue
        number, process, _, call, _, _, *arguments = _NOTICE.unpack(notice)
        path = ""
        with contextlib.suppress(OSError):  # it has ended meanwhile
            path = _path_of(process, call, arguments)
        inside = path.startswith(f"{folder}/")
        yield number, os.path.relpath(path, folder) if inside else ""


def _path_of(process: int, call: int, arguments: list[int]) -> str:
    """Returns the absolute path that a system call writes; "" for stderr.

    Raises:
      OSError: the process has ended.
    """
    machine = _MACHINES[platform.machine()]
    given = {**machine.opens, **machine.names}.get(call)
    if given is None:
        return os.readlink(f"/proc/{process}/fd/{arguments[0]}") if arguments[0] != 2 else ""
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        memory.seek(arguments[given.path])
        name = memory.read(_PAGE - arguments[given.path] % _PAGE)  # the next page may be missing
        name = name if b"\0" in name else name + memory.read(_PAGE)
    descriptor = -1 if given.folder is None else ctypes.c_int(arguments[given.folder]).value
    folder = os.readlink(f"/proc/{process}/{'cwd' if descriptor < 0 else f'fd/{descriptor}'}")
    return os.path.normpath(os.path.join(folder, os.fsdecode(name.partition(b"\0")[0])))


def _control(listener: int, request: int, content: bytearray) -> bool:
    """Returns whether a request to the filter was fulfilled; not if the asking thread is gone."""
    try:
        fcntl.ioctl(listener, request, content)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True
