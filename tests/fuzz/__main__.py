"""Damages the files of readers for as long as asked, and keeps what is not refused in a line.

  python -m tests.fuzz TARGET... --seconds=600
  python -m tests.fuzz all --seconds=120
  python -m tests.fuzz all --again             # reads the kept findings once more

A child process reads the files. It may take little memory and little time, start no program and
open nothing beyond its folder: what kills it is a finding, too. Findings are kept in --output, one
file for each place in the code. With atheris (pip install atheris) damages that reach new code are
damaged further. A table at the end has what each target got.
"""

import argparse
import mmap
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import guided
from tests.fuzz.limits import Broken, Guard, limit_memory
from tests.fuzz.mutations import drawn, mutated, spliced

with guided.watched_imports():
    from tests.fuzz.target import Target, attack
    from tests.fuzz.targets import TARGETS

_CORPUS = 64  # damaged files that later ones are spliced with


class Job(NamedTuple):
    """What one child process does."""

    target: Target
    folder: Path
    seconds: float
    seed: int
    findings: Path
    tried: mmap.mmap  # 8 bytes, shared with the parent: how many files were tried


class Row(NamedTuple):
    """What one target got."""

    name: str
    files: int
    seconds: float
    new: int  # findings
    ended: int  # child processes that were killed or failed


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}lm_jax{os.sep}" in frame.filename]
    last = (ours or frames)[-1]
    kind = type(error).__name__
    if isinstance(error, Broken):
        kind = "-".join(str(error).split()[:2] if ":" in str(error) else ["limit"])
    return f"{kind}-{Path(last.filename).stem}-{last.lineno}"


def _try_one(job: Job, guard: Guard, content: bytes) -> None:
    """Reads a damaged file; keeps it if it is not refused as it should be."""
    (count,) = struct.unpack("q", job.tried[:8])
    job.tried[:8] = struct.pack("q", count + 1)
    try:
        with guard.reading(len(content)):
            attack(job.target, job.folder, content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        kept = job.findings / f"{job.target.name}-{_place(error)}"
        if not kept.exists():
            kept.write_bytes(content)
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            print(f"{job.target.name}: {_place(error)}: {text}", flush=True)


def _begin(job: Job) -> tuple[bytes, Guard]:
    """Returns the whole file, after it was read once, and what watches from now on."""
    tempfile.tempdir = str(job.folder)
    os.chdir(job.folder)
    job.target.prepare(job.folder)
    whole = job.target.seed()
    with guided.watched_imports():  # of what is imported where it is needed
        job.target.read(job.target.write(job.folder, whole))
    limit_memory()
    return whole, Guard(job.folder)


def _fuzz(job: Job) -> None:
    """Reads damaged files until the time is over."""
    end = time.monotonic() + job.seconds
    whole, guard = _begin(job)
    if guided.atheris() is not None:

        def try_one(content: bytes) -> None:
            _try_one(job, guard, content)

        guided.run_guided(try_one, whole, job.seconds, job.seed, job.folder / "corpus")
    source, corpus = random.Random(job.seed), [whole]
    while time.monotonic() < end:
        content = source.choice(corpus) if source.random() < 0.2 else whole
        if source.random() < 0.1:
            content = spliced(content, source.choice(corpus), source)
        content = mutated(content, drawn(source))
        _try_one(job, guard, content)
        corpus = [whole, *corpus[1:], content][: _CORPUS if source.random() < 0.9 else 1]


def _again(job: Job) -> None:
    """Reads the kept findings of a target once more, and removes those that are refused now."""
    _, guard = _begin(job)
    for path in sorted(job.findings.glob(f"{job.target.name}-*")):
        content = path.read_bytes()
        path.unlink()
        _try_one(job, guard, content)


def _in_child(job: Job, work: Callable[[Job], None]) -> int:
    """Returns the exit status of a child process that works, as `os.waitpid` has it."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            work(job)
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    return os.waitpid(child, 0)[1]


def _run(target: Target, seconds: float, seed: int, findings: Path, is_again: bool) -> Row:
    """Fuzzes in child processes, until the time is over: a new one where one was killed."""
    before, start = set(findings.iterdir()), time.monotonic()
    files = ended = 0
    while (left := start + seconds - time.monotonic()) > 0:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        tried = mmap.mmap(-1, 8)
        job = Job(target, folder, left, seed + ended, findings, tried)
        status = _in_child(job, _again if is_again else _fuzz)
        files += struct.unpack("q", tried[:8])[0]
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            print(f"{target.name}: the process was killed by signal {number}", flush=True)
            kept = findings / f"{target.name}-signal-{number}-{job.seed}"
            shutil.copy2(folder / target.file, kept)
        shutil.rmtree(folder, ignore_errors=True)
        ended += status != 0
        if status == 0 or not files:  # a whole file that cannot be read is a fault of its target
            break
    new = len(set(findings.iterdir()) - before)
    return Row(target.name, files, time.monotonic() - start, new, ended)


def main() -> int:
    """Returns 1 if there are findings, or a child process failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="+", choices=["all", *TARGETS], metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("fuzz_findings"))
    parser.add_argument("--again", action="store_true", help="read the kept findings alone")
    given = parser.parse_args()
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    line = "{:<20} {:>9} {:>8} {:>8} {:>6}"
    print(line.format("target", "files", "seconds", "findings", "ended"), flush=True)
    for name in TARGETS if "all" in given.targets else given.targets:
        rows.append(_run(TARGETS[name], given.seconds, given.seed, output, given.again))
        name, files, seconds, new, ended = rows[-1]
        print(line.format(name, f"{files:,}", f"{seconds:.0f}", new, ended), flush=True)
    total = (f"{sum(row.files for row in rows):,}", f"{sum(row.seconds for row in rows):.0f}")
    print(line.format("all", *total, sum(row.new for row in rows), sum(row.ended for row in rows)))
    return int(any(row.new or row.ended for row in rows))


if __name__ == "__main__":
    sys.exit(main())
