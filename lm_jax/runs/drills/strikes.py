"""Attacks on programs besides training: evaluation, generation, exports, preparation, sweeps.

A program is struck while it writes or before. Its outputs have to be whole or absent, the run that
it reads has to stay as it was, and the same command has to give the same bytes afterwards.
"""

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lm_jax.runs.drills import judge
from lm_jax.runs.drills.attacks import (
    CORRUPTIONS,
    IDENTICAL,
    REFUSED,
    Attack,
    Drill,
    Outcome,
    flipped,
    weighted_files,
)
from lm_jax.runs.drills.programs import PROGRAMS, STDOUT, Command, Place, Program, commands_of
from lm_jax.runs.drills.site import Ended, Harm, Job
from lm_jax.runs.drills.surroundings import struck_file, write_fault

_LONGEST_WRITE = 0.5  # seconds that a write waits
_POLL_SECONDS = 0.05


class _Struck(NamedTuple):
    """What a strike did."""

    what: str
    ended: Ended
    restore: Callable[[], None] | None = None  # puts a file back that it changed


# (place, random numbers, command) -> what was struck, and how the command ended
_Strike = Callable[[Place, random.Random, Command], _Struck]


def _signalled(number: signal.Signals, *, hits_children: bool = False) -> _Strike:
    def strike(place: Place, rng: random.Random, command: Command) -> _Struck:
        """Sends a signal at a random moment."""
        job = _started_slowly(place, command)
        moment = rng.uniform(0, 2 * command.seconds)
        what = f"{moment:.1f} s"
        if job.runs_for(moment):
            children = _children(job) if hits_children else []
            if children and rng.random() < 0.5:
                what += ", a process that it started"
                _send(rng.choice(children), number)
            else:
                job.processes[0].send(number)
        return _Struck(what, job.end(place.drill.site.limit_seconds))

    return strike


def _started_slowly(place: Place, command: Command) -> Job:
    """Starts a command whose writes wait, so that they take half of the time."""
    each = command.seconds / max(command.num_writes, 1)
    fault = write_fault(place.drill.site, seconds=min(each, _LONGEST_WRITE))
    return place.start(command, Harm(fault))


def _children(job: Job) -> list[int]:
    """Returns the processes that a job's first process has started, and those that these have.

    What answers for its writes is a fork of it, and none of them. Nor is Python's own process that
    removes semaphores: a new one that takes its place prints a KeyError.
    """
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
    found, own = [], _command_line(job.processes[0].pid)
    waiting = [job.processes[0].pid]
    while waiting:
        parent = waiting.pop()
        below = [each for each, above in parents.items() if above == parent]
        below = [each for each in below if _command_line(each) not in (own, b"")]
        found += [each for each in below if b"resource_tracker" not in _command_line(each)]
        waiting += below
    return found


def _command_line(process: int) -> bytes:
    """Returns how a process was started; b"" if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def _send(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass


def _failing(error: int) -> _Strike:
    def strike(place: Place, rng: random.Random, command: Command) -> _Struck:
        """Lets one write fail, or on a full disk all from a random one on."""
        fault = write_fault(
            place.drill.site,
            skip=rng.randrange(max(command.num_writes, 1)),
            error=error,
            lasts=error == errno.ENOSPC,
        )
        ended = place.run(command, Harm(fault))
        return _Struck(struck_file(fault), ended)

    return strike


def _killed(place: Place, rng: random.Random, command: Command) -> _Struck:
    """Kills a command at a random moment, and waits for the processes that it has started."""
    job = _started_slowly(place, command)
    moment = rng.uniform(0, 2 * command.seconds)
    children = _children(job) if job.runs_for(moment) else []
    job.processes[0].send(signal.SIGKILL)
    ended = job.end(place.drill.site.limit_seconds)
    deadline = time.monotonic() + place.drill.site.limit_seconds
    while any(map(_command_line, children)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return _Struck(f"{moment:.1f} s", ended)


def _damaged(place: Place, rng: random.Random, command: Command) -> _Struck:
    """Kills a command and corrupts a file of what it has begun."""
    struck = _killed(place, rng, command)
    folder = place.folder / command.program.unfinished
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return struck
    path, kind = rng.choice(files), rng.choice(list(CORRUPTIONS))
    good = path.read_bytes()
    content = CORRUPTIONS[kind](good, rng)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    what = f"{struck.what}, {path.relative_to(place.folder)}: {kind}"
    return _Struck(what, struck.ended, lambda: _put_back(path, good))


def _changed_source(place: Place, rng: random.Random, command: Command) -> _Struck:
    """Kills a command and changes a bit of what it reads; half of the times the file's time stays.

    A command that had ended meets no change: what it made is of the text before.
    """
    struck = _killed(place, rng, command)
    if command.program.shown(place) == command.made:
        return struck
    (path,) = weighted_files(place.given / command.program.sources, rng, 1)
    good, state = path.read_bytes(), path.stat()
    path.write_bytes(flipped(good, rng))
    when = ""
    if rng.random() < 0.5:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        when = ", with its old time"
    what = f"{struck.what}, {path.name}: a bit{when}"

    def restore() -> None:
        _put_back(path, good)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    return _Struck(what, struck.ended, restore)


def _put_back(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _strikes(program: Program) -> dict[str, _Strike]:
    """Returns the ways in which a program is struck, by name."""
    found = {
        "kill": _signalled(signal.SIGKILL, hits_children=bool(program.unfinished)),
        "stop": _signalled(signal.SIGTERM),
        "disk": _failing(errno.ENOSPC),
        "failing": _failing(errno.EIO),
    }
    if program.unfinished:
        found["damaged"] = _damaged
    if program.sources:
        found["data"] = _changed_source
    return found


def _attack(name: str, program: Program) -> Attack:
    """Returns an attack that strikes a program in each way in turn."""

    def run(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
        place = Place(drill, drill.site.new(name))
        commands, strikes = commands_of(place, program), _strikes(program)
        for number in range(repeat):
            way = list(strikes)[number % len(strikes)]
            command = rng.choice(commands)
            place.fresh()
            before = program.shown(place)
            struck = strikes[way](place, rng, command)
            verdict, said = _judge(place, before, command, struck)
            yield Outcome(f"{name}, {way}", f"{command.name}: {struck.what}", verdict, said)

    return run


def _judge(
    place: Place, before: Mapping[str, bytes], command: Command, struck: _Struck
) -> tuple[str, str]:
    """Returns what a strike came to, and what was said."""
    said = _refusal(place, struck.ended)
    fault = judge.fault(struck.ended)
    if not fault and command.program.is_atomic:
        fault = _partial(place, before, command)
    if not fault and struck.ended.status == 1 and not said:
        fault = "status 1 without one line"
    if fault and struck.restore:
        struck.restore()
    if fault:
        return fault, said
    if not struck.restore:
        verdict, again = _again(place, command)
        return verdict, said or again
    return _meets_change(place, command, struck.restore)


def _meets_change(place: Place, command: Command, restore: Callable[[], None]) -> tuple[str, str]:
    """Gives a command again that meets a changed file, and once more when it is put back.

    It is refused in one line, or makes of the changed file what a new start makes of it.
    """
    ended = place.run(command)
    fault, said = judge.fault(ended), _refusal(place, ended)
    if not fault and ended.status != 0 and not said:
        fault = f"status {ended.status} without one line"
    if not fault and ended.status == 0:
        found = command.program.shown(place)
        if command.program.sources and found != command.made:
            place.fresh()
            place.run(command)
            fault = _difference(found, command.program.shown(place))
            place.fresh()
        elif not command.program.sources:
            fault = _difference(found, command.made)
    restore()
    if fault:
        return fault, said or ended.errors.strip()[-200:]
    if ended.status == 0 and not command.program.sources:
        return IDENTICAL, ended.errors.strip()[-200:]
    verdict, again = _again(place, command)
    return (REFUSED if said and verdict == IDENTICAL else verdict), said or again


def _refusal(place: Place, ended: Ended) -> str:
    """Returns the one line of a command that failed, or of a run of a sweep that did; "": none."""
    if line := judge.refusal(ended):
        return line
    stdout = place.folder / STDOUT
    lines = stdout.read_text(errors="replace").splitlines() if stdout.exists() else []
    return next((line for line in lines if line.startswith("failed: ")), "")


def _partial(place: Place, before: Mapping[str, bytes], command: Command) -> str:
    """Returns which file is neither as before nor as the command makes it; "" if none is."""
    found = command.program.shown(place)
    for name, content in found.items():
        if name != STDOUT and content not in (before.get(name), command.made.get(name)):
            return f"{name} is neither the old one nor the new one"
    missing = before.keys() - found.keys()
    return f"{min(missing)} is missing" if missing else ""


def _again(place: Place, command: Command) -> tuple[str, str]:
    """Gives the command once more; returns the verdict and what was said."""
    made, compared = dict(command.made), _without_stdout(command.program.shown(place))
    is_done = compared == _without_stdout(made)
    ended = place.run(command)
    said = ended.errors.strip()[-200:]
    found = command.program.shown(place)
    if is_done and not command.program.repeats and judge.refusal(ended):
        made, found = _without_stdout(made), _without_stdout(found)
    elif ended.status != 0:
        fault = judge.fault(ended) or f"ends with status {ended.status}"
        return fault, said or _refusal(place, ended)
    return _difference(found, made) or IDENTICAL, said


def _without_stdout(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != STDOUT}


def _difference(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> str:
    """Returns which file differs, in a phrase; "" if none does.

    `NOTICED`: none but the newest checkpoint of a run that had ended.
    """
    names = sorted(found.keys() | expected.keys())
    differing = [name for name in names if found.get(name) != expected.get(name)]
    for name in differing:
        ours, theirs = found.get(name, b""), expected.get(name, b"")
        if not judge.differs_in_checkpoint_alone(ours, theirs):
            return f"{name} differs"
    return judge.NOTICED if differing else ""


ON_PROGRAMS: Mapping[str, Attack] = {
    name: _attack(name, program) for name, program in PROGRAMS.items()
}
