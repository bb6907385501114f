"""Delays the writes of a process, or lets them fail, whatever library writes and on any disk.

Linux asks a second process about each system call that writes (seccomp_unotify(2), from Linux 5.5
on, without root). That process knows the file, and answers with an error or, after a while, with
leave to go on. Files that a program only makes, renames or maps into memory are not its concern.
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
    """What becomes of the writes to files in a folder."""

    folder: str  # absolute; other files are left alone
    pattern: str  # regular expression that the path in the folder contains
    skip: int  # writes to such files before the one that fails
    error: int  # errno; 0: none fails
    lasts: bool  # whether all later writes in the folder fail, too
    seconds: float  # that each write in the folder waits
    log: str  # a file with a line for each write in the folder; the one that failed begins with !


class _Machine(NamedTuple):
    audit: int  # AUDIT_ARCH_* of linux/audit.h
    seccomp: int  # number of the system call, as are the following
    writes: tuple[int, ...]  # write, pwrite64, writev, pwritev, fsync, fdatasync, ftruncate,
    # fallocate, sendfile; the first argument is the file


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 317, (1, 18, 20, 296, 74, 75, 77, 285, 40)),
    "aarch64": _Machine(0xC00000B7, 277, (64, 68, 66, 70, 82, 83, 46, 47, 71)),
}
# linux/prctl.h, linux/filter.h and linux/seccomp.h
_NO_NEW_PRIVILEGES = 38
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_SET_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_GO_ON = 1
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
    count = len(machine.writes)
    steps = [(_LOAD, 0, 0, 4), (_JUMP_IF_EQUAL, 0, count + 1, machine.audit), (_LOAD, 0, 0, 0)]
    steps += [(_JUMP_IF_EQUAL, count - i, 0, call) for i, call in enumerate(machine.writes)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ASK)]
    code = b"".join(struct.pack("<HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(
        struct.pack("@HP", len(steps), ctypes.addressof(held))  # struct sock_fprog
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
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
        number, process, _, _, _, _, descriptor, *_ = _NOTICE.unpack(notice)
        path = ""
        with contextlib.suppress(OSError):  # it has ended meanwhile
            path = os.readlink(f"/proc/{process}/fd/{descriptor}")
        inside = descriptor > 2 and path.startswith(f"{folder}/")  # not stdout nor stderr
        yield number, os.path.relpath(path, folder) if inside else ""


def _control(listener: int, request: int, content: bytearray) -> bool:
    """Returns whether a request to the filter was fulfilled; not if the asking thread is gone."""
    try:
        fcntl.ioctl(listener, request, content)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True
