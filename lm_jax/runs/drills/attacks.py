"""What a drill does to a run, and what came of it.

Each attack is a function of a drill, its random numbers and a number of repetitions. It returns one
outcome per repetition. Here are the attacks on processes and files of runs; those on what a run
stands on are in `surroundings`.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lm_jax.errors import UserError
from lm_jax.runs.drills import judge
from lm_jax.runs.drills.site import Ended, Job, Site
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.training.checkpoints import finished_steps

IDENTICAL = "identical"
REFUSED = "one line"  # and identical once the file was put back
GOOD = (IDENTICAL, REFUSED, judge.NOTICED)
_SECOND_STARTS_WITHIN = 0.5  # seconds
_IMPORT_SECONDS = 2.0
_MOST_STARTS = 3  # of the same command, until it has to finish


class Outcome(NamedTuple):
    """What one repetition of an attack came to."""

    attack: str
    detail: str  # what was done
    verdict: str  # IDENTICAL, REFUSED, or what was lost or wrong
    message: str = ""  # what the program said of it

    @property
    def is_good(self) -> bool:
        return self.verdict in GOOD


class Drill(NamedTuple):
    """A site, and runs of it that nobody attacked."""

    site: Site
    reference: judge.Reference
    finished: Path  # a run that has ended
    begun: Path  # a run that was killed on its way, with checkpoints


Attack = Callable[[Drill, random.Random, int], Iterator[Outcome]]


def prepare(site: Site) -> Drill:
    """Trains the reference, and a run that is killed after its second checkpoint.

    Raises:
      UserError: the configuration does not train to its end, or saves no checkpoint on its way.
    """
    finished, begun = site.new("reference"), site.new("begun")
    site.run(site.new("first"))  # it fills the caches
    started = time.monotonic()
    ended = site.run(finished)
    site.clean_seconds = time.monotonic() - started
    if ended.status != 0:
        raise UserError(f"the run that nobody attacks fails: {ended.errors.strip()[-300:]}")
    job = site.start(begun)
    while job.is_running() and len(finished_steps(begun / "checkpoints")) < 2:
        job.runs_for(0.01)
    for process in job.processes:
        process.send(signal.SIGKILL)
    job.end(site.limit_seconds)
    if (begun / "evaluation.json").exists() or len(finished_steps(begun / "checkpoints")) < 2:
        raise UserError(
            "the run saves fewer than two checkpoints before its end; set checkpoint.every_steps "
            "to a fifth of training.num_steps or less, and checkpoint.keep_last to 2"
        )
    return Drill(site, judge.read(finished), finished, begun)


def finish_with_data_back(
    drill: Drill, workdir: Path, ended: Ended, path: Path, good: bytes
) -> tuple[str, str]:
    """Puts a changed file of the data back and finishes the run that met it.

    Returns the verdict and what was said: the run was refused in one line, or not touched by it.

    Args:
      ended: how the run ended while the file was another.
      good: the bytes of the file before.
    """
    failed, line = judge.fault(ended), judge.refusal(ended)
    if not failed and ended.status != 0 and not line:
        failed = f"status {ended.status} without one line"
    if not failed and not line:
        failed = judge.difference(workdir, drill.reference)
    path.write_bytes(good)
    verdict, said = finish(drill, workdir, failed)
    verdict = REFUSED if line and verdict == IDENTICAL else verdict
    if verdict in GOOD:
        shutil.rmtree(workdir)
    return verdict, line or said


def finish(drill: Drill, workdir: Path, before: str = "") -> tuple[str, str]:
    """Runs the same command until it ends well; returns the verdict and what was said.

    Args:
      before: what was wrong already; "": nothing.
    """
    ended = Ended(0, "")
    for _ in range(_MOST_STARTS):
        ended = drill.site.run(workdir)
        if fault := before or judge.fault(ended):
            return fault, ended.errors.strip()[-200:]
        if ended.status == 0:
            said = _first_note(ended.errors)
            return _verdict(drill, workdir), said
    return f"ends with status {ended.status}", ended.errors.strip()[-200:]


def _verdict(drill: Drill, workdir: Path, is_read_again: bool = True) -> str:
    """Returns what a finished run came to.

    Args:
      is_read_again: whether the command has read the newest checkpoint, which a finished run leaves
        to those who use it.
    """
    found = judge.difference(workdir, drill.reference) or IDENTICAL
    return "the newest checkpoint is damaged" if found == judge.NOTICED and is_read_again else found


def _first_note(errors: str) -> str:
    notes = (line for line in errors.splitlines() if "damaged" in line or "cannot be read" in line)
    return next(notes, "")


def _struck(
    attack: str, strike: Callable[[Drill, random.Random, Job], str], is_warm: bool = True
) -> Attack:
    """Returns an attack on running processes: one run is struck again and again until it ends."""

    def run(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
        workdir, strikes = drill.site.new(attack), list[tuple[str, str]]()
        given = 0
        while given < repeat or strikes:
            is_over = given == repeat
            if not is_over:
                job = drill.site.start(workdir, is_warm=is_warm)
                moment = rng.uniform(0, drill.site.clean_seconds if is_warm else _IMPORT_SECONDS)
                is_struck = job.runs_for(moment)
                at = _progress(workdir)
                what = strike(drill, rng, job) if is_struck else ""
                ended = job.end(drill.site.limit_seconds)
                is_over = ended.status == 0
                if is_struck:
                    strikes.append((f"{what} {at}", judge.fault(ended)))
                elif not is_over:  # it failed by itself
                    fault = judge.fault(ended) or f"ends with status {ended.status}"
                    strikes.append((f"no attack {at}", fault))
                given = given + 1 if is_struck or not is_over else given
            if is_over:
                verdict, said = finish(drill, workdir)
                for detail, fault in strikes:
                    yield Outcome(attack, detail, fault or verdict, said)
                if verdict == IDENTICAL:
                    shutil.rmtree(workdir)
                workdir, strikes = drill.site.new(attack), []

    return run


def _progress(workdir: Path) -> str:
    steps = finished_steps(workdir / "checkpoints")
    rows = read_metrics(workdir)
    logged = rows[-1]["step"] if rows else 0
    return f"at step {logged}, checkpoint {steps[-1] if steps else 'none'}"


def _kill(drill: Drill, rng: random.Random, job: Job) -> str:
    number = rng.randrange(len(job.processes))
    job.processes[number].send(signal.SIGKILL)
    return "SIGKILL" if len(job.processes) == 1 else f"SIGKILL to process {number}"


def _terminate(drill: Drill, rng: random.Random, job: Job) -> str:
    for process in job.processes:
        process.send(signal.SIGTERM)
    return "SIGTERM"


def _pause(drill: Drill, rng: random.Random, job: Job) -> str:
    seconds = rng.uniform(0.1, 1)
    for process in job.processes:
        process.send(signal.SIGSTOP)
    time.sleep(seconds)
    for process in job.processes:
        process.send(signal.SIGCONT)
    return f"SIGSTOP for {seconds:.1f} s"


def _second(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Starts a second process in the same work directory; one of the two is refused."""
    for _ in range(repeat):
        workdir, pause = drill.site.new("second"), rng.uniform(0, _SECOND_STARTS_WITHIN)
        jobs = [drill.site.start(workdir)]
        time.sleep(pause)
        jobs.append(drill.site.start(workdir))
        ends = [job.end(drill.site.limit_seconds) for job in jobs]
        fault = next(filter(None, map(judge.fault, ends)), "")
        refused = [line for line in map(judge.refusal, ends) if line]
        if not fault and [end.status for end in ends].count(0) == 0:
            fault = "both were refused"
        verdict, _ = finish(drill, workdir, fault)
        said = refused[0] if refused else ""
        yield Outcome("second", f"{pause:.2f} s later", verdict, said)


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Returns a copy with one bit flipped; content must not be empty."""
    bit = rng.randrange(8 * len(content))
    found = bytearray(content)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def _arrays(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Flips a bit of the newest checkpoint's files, and restores it; the last time the run goes on.

    A flip is noticed, or the arrays are the same all the same.
    """
    workdir = shutil.copytree(drill.begun, drill.site.new("arrays"))
    good = judge.restored(workdir)
    newest = workdir / "checkpoints" / str(finished_steps(workdir / "checkpoints")[-1])
    for number, path in enumerate(weighted_files(newest / "default", rng, repeat), 1):
        content = path.read_bytes()
        path.write_bytes(flipped(content, rng))
        arrays, notes = judge.restored(workdir)
        verdict = "restored silently wrong"
        if notes:
            verdict = judge.NOTICED
        elif judge.same(arrays, good[0]):
            verdict = IDENTICAL
        if verdict != judge.NOTICED or number < repeat:
            path.write_bytes(content)
        detail = f"{path.relative_to(workdir)}: a bit"
        yield Outcome("arrays", detail, verdict, next(iter(notes), ""))
    verdict, said = finish(drill, workdir)
    yield Outcome("arrays", "the run goes on", verdict, said)


def weighted_files(folder: Path, rng: random.Random, repeat: int) -> list[Path]:
    """Returns files, each as probable as it is large."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return rng.choices(files, [path.stat().st_size for path in files], k=repeat)


def _caches(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Flips a bit of a cached file of the data, which has to be made anew."""
    for path in weighted_files(drill.site.root / "cache", rng, repeat):
        good = path.read_bytes()
        detail = f"{path.name}: a bit"
        path.write_bytes(flipped(good, rng))
        workdir = shutil.copytree(drill.finished, drill.site.new("caches"))
        verdict, said = finish(drill, workdir)
        if path.read_bytes() != good:
            verdict = "the damaged cache stays"
            path.write_bytes(good)
        if verdict == IDENTICAL:
            shutil.rmtree(workdir)
        yield Outcome("caches", detail, verdict, said)


CORRUPTIONS: Mapping[str, Callable[[bytes, random.Random], bytes | None]] = {
    "emptied": lambda content, rng: b"",
    "cut": lambda content, rng: content[: rng.randrange(len(content))] if content else b"",
    "byte 0xFF": lambda content, rng: _with_byte(content, rng),
    "null": lambda content, rng: b"null",
    "a bit": lambda content, rng: flipped(content, rng) if content else b"",
    "deleted": lambda content, rng: None,
}


def _with_byte(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + b"\xff" + content[at + 1 :]


def _files(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Corrupts any file of a run that was begun or has ended, each as probable as any other."""
    for _ in range(repeat):
        source = rng.choice([drill.begun, drill.finished])
        path = rng.choice(sorted(path for path in source.rglob("*") if path.is_file()))
        kind = rng.choice(list(CORRUPTIONS))
        content = CORRUPTIONS[kind](path.read_bytes(), rng)
        yield _damaged(drill, "files", source, str(path.relative_to(source)), kind, content)


def _damaged(
    drill: Drill, attack: str, source: Path, name: str, kind: str, content: bytes | None
) -> Outcome:
    """Replaces a file in a copy of a run (None: deletes it) and runs the same command.

    It has to finish with the same result, or to end in one line and to finish after the file was
    put back.
    """
    state = "begun" if source == drill.begun else "finished"
    detail = f"{state}: {name}: {kind}"
    workdir = shutil.copytree(source, drill.site.new(attack))
    path = workdir / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    ended = drill.site.run(workdir)
    fault, line = judge.fault(ended), judge.refusal(ended)
    if fault or (ended.status != 0 and not line):
        return Outcome(attack, detail, fault or f"status {ended.status}", ended.errors[-300:])
    if line:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, path)
        verdict, _ = finish(drill, workdir)
        verdict, said = REFUSED if verdict == IDENTICAL else verdict, line
    else:
        verdict = _verdict(drill, workdir, is_read_again=source == drill.begun)
        said = _first_note(ended.errors)
    if verdict in GOOD:
        shutil.rmtree(workdir)
    return Outcome(attack, detail, verdict, said)


ON_RUNS: Mapping[str, Attack] = {
    "kill": _struck("kill", _kill),
    "stop": _struck("stop", _terminate),
    "pause": _struck("pause", _pause),
    "imports": _struck("imports", _kill, is_warm=False),
    "second": _second,
    "arrays": _arrays,
    "caches": _caches,
    "files": _files,
}
