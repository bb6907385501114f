"""Attacks on what a run stands on: the disk, the clock and the data."""

import errno
import os
import random
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.runs.drills import judge
from lm_jax.runs.drills.attacks import (
    IDENTICAL,
    Attack,
    Drill,
    Outcome,
    finish,
    finish_with_data_back,
    flipped,
)
from lm_jax.runs.drills.clock import Jump
from lm_jax.runs.drills.site import Harm, Site
from lm_jax.runs.drills.write_faults import WriteFault

_DAY = 86_400.0  # seconds
_LARGEST_JUMP = 10 * _DAY
_SLOWEST = 3.0  # all delays together, in times of a run that nobody attacks

# What is written, by the beginning of its path in the work directory, in the order of time.
_STAGES: Mapping[str, str] = {
    "start": r"\.?(running|data|environment|config|attempts)\.json|tokenizer/|\.?validation",
    "metrics": r"metrics\.jsonl",
    "tensorboard": r"tensorboard/",
    "checkpoint": r"checkpoints/",
    "digests": r"\.?digests\.json",
    "results": r"\.?(samples|inspection|by_document|evaluation)",
    "report": r"\.?report\.html",
}


def _counted(drill: Drill) -> dict[str, int]:
    """Returns how often a run without a cache writes in each stage."""
    workdir, cache = drill.site.new("counted"), drill.site.new("counted-cache")
    fault = write_fault(drill.site)
    drill.site.start(workdir, harm=Harm(fault), cache=cache).end(drill.site.limit_seconds)
    written = Path(fault["log"]).read_text().splitlines()
    found = {
        stage: sum(re.match(pattern, path) is not None for path in written)
        for stage, pattern in _patterns(workdir, cache).items()
    }
    return {stage: count for stage, count in found.items() if count}


def _patterns(workdir: Path, cache: Path) -> dict[str, str]:
    """Returns what the paths in the site match that are written in each stage."""
    inside = f"^{re.escape(workdir.name)}/"
    stages = {stage: f"{inside}({pattern})" for stage, pattern in _STAGES.items()}
    return {"cache": f"^{re.escape(cache.name)}/", **stages}


def write_fault(
    site: Site,
    *,
    pattern: str = "",
    skip: int = 0,
    error: int = 0,
    lasts: bool = False,
    seconds: float = 0.0,
) -> WriteFault:
    """Returns a fault of writes in a site; without an error and seconds they are logged alone."""
    return WriteFault(
        folder=str(site.root),
        pattern=pattern,
        skip=skip,
        error=error,
        lasts=lasts,
        seconds=seconds,
        log=str(site.new("writes")),
    )


def _failing_once(
    drill: Drill, attack: str, workdir: Path, cache: Path, fault: WriteFault
) -> Outcome:
    """Lets a write fail, and gives the same command again without a fault."""
    job = drill.site.start(workdir, harm=Harm(fault), cache=cache)
    ended = job.end(drill.site.limit_seconds)
    failed, said = judge.fault(ended), judge.refusal(ended)
    if not failed and ended.status != 0 and not said:
        failed = f"status {ended.status} without one line"
    what = struck_file(fault)
    verdict, _ = finish(drill, workdir, failed)
    if verdict == IDENTICAL:
        shutil.rmtree(workdir)
    said = said or failed and ended.errors.strip()[-300:]
    return Outcome(attack, f"{os.strerror(fault['error'])}: {what}", verdict, said)


def struck_file(fault: WriteFault) -> str:
    """Returns the path of the file whose write failed, within a folder of the site."""
    lines = Path(fault["log"]).read_text().splitlines()
    struck = next((line for line in lines if line[:1] == "!"), "!/no file")
    return struck.partition("/")[2]


def _disk(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Lets every write from a random one of a stage on fail, as on a full disk: each in turn."""
    counts = _counted(drill)
    for number in range(repeat):
        stage = list(counts)[number % len(counts)]
        workdir, cache = drill.site.new("disk"), drill.site.new("disk-cache")
        fault = write_fault(
            drill.site,
            pattern=_patterns(workdir, cache)[stage],
            skip=rng.randrange(counts[stage]),
            error=errno.ENOSPC,
            lasts=True,
        )
        yield _failing_once(drill, f"disk, {stage}", workdir, cache, fault)


def _failing(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Lets one write fail, or all from one on."""
    num_writes = sum(_counted(drill).values())
    for _ in range(repeat):
        workdir, cache = drill.site.new("failing"), drill.site.new("failing-cache")
        fault = write_fault(
            drill.site,
            skip=rng.randrange(num_writes),
            error=rng.choice([errno.EIO, errno.ENOSPC]),
            lasts=rng.random() < 0.5,
        )
        yield _failing_once(drill, "failing", workdir, cache, fault)


def _slow(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Lets every write wait, and kills half of the runs on their way."""
    num_writes = sum(_counted(drill).values())
    for _ in range(repeat):
        together = rng.uniform(0, _SLOWEST) * drill.site.clean_seconds
        fault = write_fault(drill.site, seconds=together / num_writes)
        detail = f"{1000 * fault['seconds']:.1f} ms a write"
        longest = drill.site.clean_seconds + together
        yield _half_killed(drill, rng, "slow", Harm(fault), detail, longest)


def _clock(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Lets the clock jump up to three times; it is right again for the next start."""
    for _ in range(repeat):
        times = sorted(rng.uniform(0, drill.site.clean_seconds) for _ in range(rng.randint(1, 3)))
        jumps = [Jump(after, rng.uniform(-_LARGEST_JUMP, _LARGEST_JUMP)) for after in times]
        detail = ", ".join(f"{jump.seconds / _DAY:+.1f} days" for jump in jumps)
        longest = drill.site.clean_seconds
        yield _half_killed(drill, rng, "clock", Harm(jumps=jumps), detail, longest)


def _half_killed(
    drill: Drill, rng: random.Random, attack: str, harm: Harm, detail: str, longest: float
) -> Outcome:
    """Runs under a harm; half of the runs are killed within so many seconds and go on without."""
    workdir = drill.site.new(attack)
    job = drill.site.start(workdir, harm=harm)
    if rng.random() < 0.5 and job.runs_for(rng.uniform(0, longest)):
        job.processes[0].send(signal.SIGKILL)
        detail += ", killed"
    ended = job.end(drill.site.limit_seconds)
    failed = judge.fault(ended)
    if not failed and ended.status not in (0, -signal.SIGKILL):
        failed = f"status {ended.status}: {judge.refusal(ended)}"
    verdict, said = finish(drill, workdir, failed)
    if verdict == IDENTICAL:
        shutil.rmtree(workdir)
    return Outcome(attack, detail, verdict, said)


def copied_data(experiment: Experiment, root: Path) -> Path:
    """Returns the path in `root` of a copy of the data, which an attack may change.

    Raises:
      UserError: the data is no file or folder of this machine.
    """
    given = getattr(experiment.data, "path", "")
    source = Path(given)
    if not given or not source.exists():
        raise UserError(
            f"the attack `data` changes files, and data.path={given!r} is none; give a file or "
            "a folder of this machine, or other --attacks"
        )
    copy = root / "data" / source.absolute().name
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        copy.parent.mkdir()
        shutil.copyfile(source, copy)
    return copy


def _data(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Changes a bit of a file of the data; half of the times the file's time stays.

    The run that was begun has to be refused in one line, and to be identical once the file is back.
    """
    files = sorted(path for path in (drill.site.root / "data").rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    for _ in range(repeat):
        (path,) = rng.choices(files, sizes)
        source = rng.choice([drill.begun, drill.finished])
        good, state, keeps_time = path.read_bytes(), path.stat(), rng.random() < 0.5
        path.write_bytes(flipped(good, rng))
        if keeps_time:
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        workdir = shutil.copytree(source, drill.site.new("data"))
        ended = drill.site.run(workdir)
        verdict, said = finish_with_data_back(drill, workdir, ended, path, good)
        state_of_run = "begun" if source == drill.begun else "finished"
        when = ", with its old time" if keeps_time else ""
        detail = f"{state_of_run}: {path.name}: a bit{when}"
        yield Outcome("data", detail, verdict, said)


ON_SURROUNDINGS: Mapping[str, Attack] = {
    "disk": _disk,
    "failing": _failing,
    "slow": _slow,
    "clock": _clock,
    "data": _data,
}
