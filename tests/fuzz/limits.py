"""What a reader may not do with one file: take long, take much memory, reach beyond its folder."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

MEMORY = 1 << 30  # bytes of addresses more than at the start
_GROWTH = 96 << 20  # bytes of memory that one small file may take
_GROWTH_PER_BYTE = 64
_CPU_SECONDS = 5.0  # for one file
_DEAD_SECONDS = 60.0  # after which a process that runs no Python is killed

_CODE = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "socket.connect")
_WRITING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.symlink")
_PATHS = ("open", "os.listdir", "os.scandir", *_WRITING)
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/usr/")


class Broken(BaseException):
    """A reader broke a limit."""


def limit_memory() -> None:
    """Lets this process have 1 GiB of addresses more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _too_long(*_: object) -> None:
    raise Broken(f"longer than {_CPU_SECONDS:g} s of CPU time")


class Guard:
    """Watches the reading of one file after another, in a process that does nothing else."""

    def __init__(self, folder: Path):
        """Watches from now on; nothing ends that.

        Args:
          folder: the only one that may be read and written, beside the installed code.
        """
        self._folder = f"{folder.resolve()}{os.sep}"
        own = str(Path(__file__).resolve().parents[2])
        self._allowed = (self._folder, *_SYSTEM, sys.prefix, sys.base_prefix, own, *sys.path[1:])
        self._allowed = tuple(filter(None, self._allowed))
        self._is_reading, self._broken = False, ""
        signal.signal(signal.SIGPROF, _too_long)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._is_reading:
            return
        if event in _CODE:
            self._broken = f"{event} {arguments!r}"[:200]
        elif event in _PATHS and isinstance(path := arguments[0], str | bytes | os.PathLike):
            found = os.path.realpath(os.fsdecode(path))
            may_be = self._folder if event in _WRITING else self._allowed
            if not f"{found}{os.sep}".startswith(may_be):
                self._broken = f"{event} beyond its folder: {found}"

    @contextlib.contextmanager
    def reading(self, size: int) -> Iterator[None]:
        """Watches the reading of a file of this many bytes. Raises Broken."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, _DEAD_SECONDS)  # SIGALRM ends the process
        self._is_reading, self._broken = True, ""
        try:
            yield
        finally:
            self._is_reading = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._broken:
            raise Broken(self._broken)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > _GROWTH + _GROWTH_PER_BYTE * size:
            raise Broken(f"{grown >> 20} MiB of memory for {size:,} bytes")
