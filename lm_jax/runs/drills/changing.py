"""Attacks on what is read, at a random moment of reading: a checkpoint, the data or its cache."""

import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from lm_jax.runs.drills import judge
from lm_jax.runs.drills.attacks import (
    IDENTICAL,
    REFUSED,
    Attack,
    Drill,
    Outcome,
    finish,
    finish_with_data_back,
    flipped,
    weighted_files,
)
from lm_jax.runs.drills.programs import PROGRAMS, STDOUT, Command, Place, commands_of
from lm_jax.runs.workdir import read_experiment
from lm_jax.training.checkpoints import finished_steps

_READERS = ("generate", "translate", "evaluate")  # whose stdout tells what they have read


def _changing(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Changes a bit of what is read.

    In turn: the newest checkpoint under a program that reads it, the cache under a run that goes
    on, and the data under a run that goes on without a cache.
    """
    place = Place(drill, drill.site.new("changing"))
    experiment = read_experiment(drill.finished)
    readers = [PROGRAMS[name] for name in _READERS if PROGRAMS[name].applies(experiment)]
    commands = [commands_of(place, program)[0] for program in readers]
    data, cache = drill.site.root / "data", drill.site.root / "cache"
    ways = ["checkpoint"] if commands else []
    ways += ["cache"] if cache.exists() else []
    ways += ["data"] if data.exists() else []
    for number in range(repeat):
        way = ways[number % len(ways)]
        if way == "checkpoint":
            yield _changed_checkpoint(place, rng.choice(commands), rng)
        elif way == "cache":
            yield _changed_cache(drill, cache, rng)
        else:
            yield _changed_data(drill, data, rng)


def _changed_checkpoint(place: Place, command: Command, rng: random.Random) -> Outcome:
    place.fresh()
    steps = finished_steps(place.workdir / "checkpoints")
    newest = place.workdir / "checkpoints" / str(steps[-1]) / "default"
    (path,) = weighted_files(newest, rng, 1)
    job = place.start(command)
    moment = rng.uniform(0, command.seconds)
    job.runs_for(moment)
    path.write_bytes(flipped(path.read_bytes(), rng))
    ended = job.end(place.drill.site.limit_seconds)
    verdict, said = judge.fault(ended), judge.refusal(ended)
    stdout = place.files().get(STDOUT, b"")
    if not verdict and ended.status == 0 and stdout == command.made[STDOUT]:
        verdict = IDENTICAL
    elif not verdict and (said or b"cannot be read" in stdout + ended.errors.encode()):
        verdict = judge.NOTICED
    detail = f"{command.program.module}: {path.relative_to(newest)}: a bit after {moment:.1f} s"
    return Outcome("changing, checkpoint", detail, verdict or "silently other figures", said)


def _changed_cache(drill: Drill, shared: Path, rng: random.Random) -> Outcome:
    """Changes the cache, which the run has mapped into memory or has still to read.

    Either it is noticed before anything is saved, or the cache is made anew at the start.
    """
    cache = shutil.copytree(shared, drill.site.new("changing-cache"))
    workdir = shutil.copytree(drill.begun, drill.site.new("changing"))
    (path,) = weighted_files(cache, rng, 1)
    job = drill.site.start(workdir, cache=cache)
    moment = rng.uniform(0, drill.site.clean_seconds)
    job.runs_for(moment)
    path.write_bytes(flipped(path.read_bytes(), rng))
    ended = job.end(drill.site.limit_seconds)
    failed, line = judge.fault(ended), judge.refusal(ended)
    if not failed and ended.status != 0 and not line:
        failed = f"status {ended.status} without one line"
    if line:
        again = drill.site.start(workdir, cache=cache).end(drill.site.limit_seconds)
        failed = failed or judge.fault(again) or (f"status {again.status}" if again.status else "")
    verdict, said = finish(drill, workdir, failed)
    if verdict == IDENTICAL:
        shutil.rmtree(workdir)
        shutil.rmtree(cache)
    verdict = REFUSED if line and verdict == IDENTICAL else verdict
    detail = f"{path.name}: a bit after {moment:.1f} s"
    return Outcome("changing, cache", detail, verdict, line or said)


def _changed_data(drill: Drill, data: Path, rng: random.Random) -> Outcome:
    (path,) = weighted_files(data, rng, 1)
    good, workdir = path.read_bytes(), shutil.copytree(drill.begun, drill.site.new("changing"))
    job = drill.site.start(workdir, cache=drill.site.new("changing-cache"))
    moment = rng.uniform(0, drill.site.clean_seconds / 2)
    job.runs_for(moment)
    path.write_bytes(flipped(good, rng))
    ended = job.end(drill.site.limit_seconds)
    verdict, said = finish_with_data_back(drill, workdir, ended, path, good)
    detail = f"{path.name}: a bit after {moment:.1f} s"
    return Outcome("changing, data", detail, verdict, said)


ON_READ: Mapping[str, Attack] = {"changing": _changing}
