"""Damages the files of one reader for as long as asked, and keeps what is not refused in a line.

  python -m tests.fuzz TARGET --seconds=600
  python -m tests.fuzz all --seconds=120

A child process reads the files, with little memory and an alarm: what kills it is a finding, too.
Findings are kept in --output, one file for each place in the code.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.mutations import drawn, mutated
from tests.fuzz.targets import TARGETS, Target, attack

_MEMORY = 2 << 30  # bytes more than the child has at its start
_HANG = 10.0  # seconds of CPU time for one file


class Hang(BaseException):
    """A file took too long."""


def _too_long(*_: object) -> None:
    raise Hang(f"longer than {_HANG:g} s of CPU time")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}lm_jax{os.sep}" in frame.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__}-{Path(last.filename).stem}-{last.lineno}"


def _fuzz(target: Target, folder: Path, seconds: float, seed: int, findings: Path) -> int:
    """Returns how many files were tried; keeps those that were not refused as they should."""
    target.prepare(folder)
    whole = target.seed()
    target.read(target.write(folder, whole))  # imports what it needs
    _limit_memory()
    signal.signal(signal.SIGPROF, _too_long)
    source, tried, end = random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        content = mutated(whole, drawn(source))
        signal.setitimer(signal.ITIMER_PROF, _HANG)
        try:
            attack(target, folder, content)
        except BaseException as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            kept = findings / f"{target.name}-{_place(error)}"
            if not kept.exists():
                kept.write_bytes(content)
                text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                print(f"{target.name}: {_place(error)}: {text}", flush=True)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        tried += 1
    return tried


def _run(target: Target, seconds: float, seed: int, findings: Path) -> None:
    """Fuzzes in child processes, until the time is over: a new one where one was killed."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        child = os.fork()
        if not child:
            status = 1
            try:
                tried = _fuzz(target, folder, left, seed, findings)
                print(f"{target.name}: {tried:,} files", flush=True)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            print(f"{target.name}: the process was killed by signal {number}", flush=True)
            shutil.copy2(folder / target.file, findings / f"{target.name}-signal-{number}-{seed}")
        shutil.rmtree(folder, ignore_errors=True)
        if os.WIFEXITED(status):
            return
        seed += 1


def main() -> int:
    """Returns 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="+", choices=["all", *TARGETS], metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("fuzz_findings"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    before = set(given.output.iterdir())
    for name in TARGETS if "all" in given.targets else given.targets:
        _run(TARGETS[name], given.seconds, given.seed, given.output)
    return int(set(given.output.iterdir()) != before)


if __name__ == "__main__":
    sys.exit(main())
