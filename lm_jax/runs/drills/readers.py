"""Attacks on programs that read a finished run: evaluation and generation.

A program is struck while it writes or before. Its outputs have to be whole or absent, the run has
to stay as it was, and the same command has to give the same bytes afterwards.
"""

import errno
import json
import random
import shutil
import signal
import string
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lm_jax.errors import UserError
from lm_jax.runs.drills import judge
from lm_jax.runs.drills.attacks import (
    IDENTICAL,
    Attack,
    Drill,
    Outcome,
    finish_with_data_back,
    flipped,
    weighted_files,
)
from lm_jax.runs.drills.site import NO_HARM, Ended, Harm, Job
from lm_jax.runs.drills.surroundings import struck_file, write_fault
from lm_jax.runs.workdir import read_experiment
from lm_jax.telemetry.json_files import write_text
from lm_jax.training.checkpoints import finished_steps

_TEXTS, _CHARACTERS, _QUESTIONS = 3, 120_000, 20
_LONGEST_WRITE = 0.5  # seconds that a write waits
_STDOUT = "stdout"
_KEPT = "texts.kept.jsonl"  # parts of an evaluation that was stopped, which the next one reads


class _Command(NamedTuple):
    """A program that reads a run, always in the same place, so that its bytes can be compared."""

    name: str
    module: str
    arguments: list[str]
    seconds: float = 0.0  # that it takes when nobody attacks it
    num_writes: int = 0
    made: Mapping[str, bytes] = {}  # the files of its folder afterwards, and its stdout


class _Place(NamedTuple):
    """A folder of a site in which programs read a copy of the finished run."""

    drill: Drill
    folder: Path

    @property
    def workdir(self) -> Path:
        return self.folder / "run"

    def fresh(self) -> dict[str, bytes]:
        """Makes the copy anew; returns the bytes of its files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.drill.finished, self.workdir)
        return self.files()

    def files(self) -> dict[str, bytes]:
        """Returns the bytes of files that a program shows: not those that are unfinished."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.startswith(".") and path.name != _KEPT
        }

    def start(self, command: _Command, harm: Harm = NO_HARM) -> Job:
        output = self.folder / _STDOUT
        return self.drill.site.start_program(command.module, command.arguments, output, harm)

    def run(self, command: _Command, harm: Harm = NO_HARM) -> Ended:
        return self.start(command, harm).end(self.drill.site.limit_seconds)


def _texts(folder: Path, rng: random.Random) -> None:
    """Writes texts that take several parts to measure, and questions."""
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(99)]
    (folder / "texts").mkdir(parents=True)
    for number in range(_TEXTS):
        lines = (" ".join(rng.choices(words, k=12)) for _ in range(_CHARACTERS // 75))
        write_text(folder / "texts" / f"{number}.txt", "\n".join(lines))
    questions = (
        {"context": rng.choice(words), "choices": rng.sample(words, 4), "answer": rng.randrange(4)}
        for _ in range(_QUESTIONS)
    )
    write_text(folder / "questions.jsonl", "".join(json.dumps(row) + "\n" for row in questions))


def _commands(place: _Place, program: str) -> list[_Command]:
    """Returns the commands of a program, each run once without an attack."""
    given, output = place.folder.with_name("given"), place.folder / "output"
    if not given.exists():
        _texts(given, random.Random(0))
    workdir = f"--workdir={place.workdir}"
    evaluate = {
        "by position": ["--by_position"],
        "texts": [f"--text={given / 'texts'}", f"--output={output}"],
        "task": [f"--task={given / 'questions.jsonl'}", f"--output={output}"],
    }
    if getattr(read_experiment(place.drill.finished).data, "test_path", ""):
        evaluate["test"] = ["--split=test"]
    generate = {"samples": ["--prompt=The", "--num_samples=4", "--max_new_tokens=60"]}
    named = {"evaluate": evaluate, "generate": generate}[program]
    module = f"launch.{program}"
    commands = [_Command(name, module, [workdir, *flags]) for name, flags in named.items()]
    return [_measured(place, command) for command in commands]


def _measured(place: _Place, command: _Command) -> _Command:
    """Returns a command with what it makes.

    Raises:
      UserError: it fails.
    """
    place.fresh()
    place.run(command)  # it fills the caches
    place.fresh()
    fault = write_fault(place.drill.site)
    started = time.monotonic()
    ended = place.run(command, Harm(fault))
    seconds = time.monotonic() - started
    if ended.status != 0:
        raise UserError(f"{command.module} fails unattacked: {ended.errors.strip()[-300:]}")
    num_writes = len(Path(fault["log"]).read_text().splitlines())
    return command._replace(seconds=seconds, num_writes=num_writes, made=place.files())


def _signalled(number: signal.Signals) -> "_Strike":
    def strike(place: _Place, rng: random.Random, command: _Command) -> tuple[str, Ended]:
        """Slows the writes, so that they take half of the time, and sends a signal."""
        each = command.seconds / max(command.num_writes, 1)
        fault = write_fault(place.drill.site, seconds=min(each, _LONGEST_WRITE))
        job = place.start(command, Harm(fault))
        moment = rng.uniform(0, 2 * command.seconds)
        if job.runs_for(moment):
            job.processes[0].send(number)
        ended = job.end(place.drill.site.limit_seconds)
        return f"{moment:.1f} s", ended

    return strike


def _failing(error: int) -> "_Strike":
    def strike(place: _Place, rng: random.Random, command: _Command) -> tuple[str, Ended]:
        """Lets one write fail, or on a full disk all from a random one on."""
        fault = write_fault(
            place.drill.site,
            skip=rng.randrange(max(command.num_writes, 1)),
            error=error,
            lasts=error == errno.ENOSPC,
        )
        ended = place.run(command, Harm(fault))
        return struck_file(fault), ended

    return strike


# (place, random numbers, command) -> what was struck, and how the command ended
_Strike = Callable[[_Place, random.Random, _Command], tuple[str, Ended]]
_STRIKES: Mapping[str, _Strike] = {
    "kill": _signalled(signal.SIGKILL),
    "stop": _signalled(signal.SIGTERM),
    "disk": _failing(errno.ENOSPC),
    "failing": _failing(errno.EIO),
}


def _reading(program: str) -> Attack:
    """Returns an attack that strikes a program in each way in turn."""

    def run(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
        place = _Place(drill, drill.site.new(program))
        commands = _commands(place, program)
        for number in range(repeat):
            name, strike = list(_STRIKES.items())[number % len(_STRIKES)]
            command = rng.choice(commands)
            before = place.fresh()
            what, ended = strike(place, rng, command)
            verdict = judge.fault(ended) or _partial(place, before, command)
            if not verdict and ended.status == 1 and not judge.refusal(ended):
                verdict = "status 1 without one line"
            said = judge.refusal(ended)
            verdict, again = (verdict, "") if verdict else _again(place, command)
            yield Outcome(f"{program}, {name}", f"{command.name}: {what}", verdict, said or again)

    return run


def _partial(place: _Place, before: Mapping[str, bytes], command: _Command) -> str:
    """Returns which file is neither as before nor as the command makes it; "" if none is."""
    for name, content in place.files().items():
        if name != _STDOUT and content not in (before.get(name), command.made.get(name)):
            return f"{name} is neither the old one nor the new one"
    missing = before.keys() - place.files().keys()
    return f"{min(missing)} is missing" if missing else ""


def _again(place: _Place, command: _Command) -> tuple[str, str]:
    """Gives the command once more; returns the verdict and what was said."""
    ended = place.run(command)
    said = ended.errors.strip()[-200:]
    if ended.status != 0:
        return judge.fault(ended) or f"ends with status {ended.status}", said
    found = place.files()
    for name in sorted(found.keys() | command.made.keys()):
        if found.get(name) != command.made.get(name):
            return f"{name} differs", said
    return IDENTICAL, said


def _changing(drill: Drill, rng: random.Random, repeat: int) -> Iterator[Outcome]:
    """Changes a bit of what is read, at a random moment of reading.

    In turn: the newest checkpoint under an evaluation or a generation, the data under a run that
    goes on without a cache.
    """
    place = _Place(drill, drill.site.new("changing"))
    commands = [*_commands(place, "evaluate")[:1], *_commands(place, "generate")]
    data = drill.site.root / "data"
    for number in range(repeat):
        if data.exists() and number % 2:
            yield _changed_data(drill, data, rng)
        else:
            yield _changed_checkpoint(place, rng.choice(commands), rng)


def _changed_checkpoint(place: _Place, command: _Command, rng: random.Random) -> Outcome:
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
    stdout = place.files().get(_STDOUT, b"")
    if not verdict and ended.status == 0 and stdout == command.made[_STDOUT]:
        verdict = IDENTICAL
    elif not verdict and (said or b"cannot be read" in stdout + ended.errors.encode()):
        verdict = judge.NOTICED
    detail = f"{command.module}: {path.relative_to(newest)}: a bit after {moment:.1f} s"
    return Outcome("changing, checkpoint", detail, verdict or "silently other figures", said)


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


ON_READERS: Mapping[str, Attack] = {
    "evaluate": _reading("evaluate"),
    "generate": _reading("generate"),
    "changing": _changing,
}
