"""The programs besides training that a drill attacks: their commands, and what is compared.

Each works in a folder of a site that is made anew each time, so that its bytes and paths can be
compared.
"""

import contextlib
import csv
import importlib.util
import json
import random
import shutil
import string
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import to_dict
from lm_jax.errors import UserError
from lm_jax.objectives import objective_of
from lm_jax.runs.drills import judge
from lm_jax.runs.drills.attacks import Drill
from lm_jax.runs.drills.site import NO_HARM, Ended, Harm, Job
from lm_jax.runs.drills.surroundings import write_fault
from lm_jax.runs.workdir import read_experiment
from lm_jax.telemetry.json_files import write_text

STDOUT = "stdout"
_KEPT = "texts.kept.jsonl"  # parts of an evaluation that was stopped, which the next one reads
_TEXTS, _CHARACTERS, _QUESTIONS = 3, 120_000, 20
_DOCUMENTS, _TASKS = 240, 3  # of a corpus that is prepared
_SOURCES = 24  # that are translated
_PREPARATION = """
from lm_jax.data.preparation.config import PreparationConfig


def get_preparation():
    return PreparationConfig(
        path={path!r},
        stages="exact_duplicates, near_duplicates, repeated_lines, redaction",
        tasks={tasks},
        tokenizer="byte",
        validation_fraction=0.2,
    )
"""
_SWEEP = """
import json

from lm_jax.config.serialization import from_dict
from lm_jax.sweeps.search_space import grid


def get_sweep():
    return grid(from_dict(json.loads({experiment!r})), {{"seed": [0, 1]}})
"""


class Place(NamedTuple):
    """A folder of a site in which a program works on a copy of the finished run."""

    drill: Drill
    folder: Path

    @property
    def workdir(self) -> Path:
        return self.folder / "run"

    @property
    def given(self) -> Path:
        """What the programs of the site read besides: the same for all."""
        return self.folder.with_name("given")

    def fresh(self) -> None:
        """Makes the folder anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.drill.finished, self.workdir)

    def files(self) -> dict[str, bytes]:
        """Returns the bytes of files that a program shows: not those that are unfinished."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and not _is_unfinished(path.relative_to(self.folder))
        }

    def start(self, command: "Command", harm: Harm = NO_HARM) -> Job:
        """Starts a command."""
        module, output = command.program.module, self.folder / STDOUT
        return self.drill.site.start_program(module, command.arguments, output, harm)

    def run(self, command: "Command", harm: Harm = NO_HARM) -> Ended:
        """Runs a command to its end."""
        return self.start(command, harm).end(self.drill.site.limit_seconds)


def _is_unfinished(path: Path) -> bool:
    hidden = any(part.startswith(".") or part.endswith(".partial") for part in path.parts)
    return hidden or path.name == _KEPT


class Program(NamedTuple):
    """A program that is attacked."""

    module: str
    flags: Callable[[Place], Mapping[str, list[str]]]
    """(place) -> the flags of each of its commands, by a name for people."""

    applies: Callable[[Experiment], bool]
    shown: Callable[[Place], dict[str, bytes]] = Place.files
    """(place) -> what is compared, by name."""

    is_atomic: bool = True  # whether what it shows is the old or the new at any time
    repeats: bool = True  # whether it may be given again after it ended well
    unfinished: str = ""  # where its work in progress is, in the folder; "": nowhere
    sources: str = ""  # what it reads, among what is given; "": the run


class Command(NamedTuple):
    """A command of a program, and what it makes when nobody attacks it."""

    name: str
    program: Program
    arguments: list[str]
    seconds: float = 0.0
    num_writes: int = 0
    made: Mapping[str, bytes] = {}  # what it shows


def commands_of(place: Place, program: Program) -> list[Command]:
    """Returns the commands of a program, each run once without an attack.

    Raises:
      UserError: one fails.
    """
    if not place.given.exists():
        _write_given(place)
    flags = program.flags(place)
    return [_measured(place, Command(name, program, flags[name])) for name in flags]


def _measured(place: Place, command: Command) -> Command:
    place.fresh()
    place.run(command)  # it fills the caches
    place.fresh()
    fault = write_fault(place.drill.site)
    started = time.monotonic()
    ended = place.run(command, Harm(fault))
    seconds = time.monotonic() - started
    if ended.status != 0:
        said = (ended.errors or (place.folder / STDOUT).read_text()).strip()[-300:]
        raise UserError(f"{command.program.module} fails unattacked: {said}")
    num_writes = len(Path(fault["log"]).read_text().splitlines())
    made = command.program.shown(place)
    return command._replace(seconds=seconds, num_writes=num_writes, made=made)


def _write_given(place: Place) -> None:
    """Writes texts that take several parts to measure, questions, documents and configurations."""
    rng, given = random.Random(0), place.given
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(99)]
    for name in ("texts", "documents"):
        (given / name).mkdir(parents=True)
    for number in range(_TEXTS):
        lines = (" ".join(rng.choices(words, k=12)) for _ in range(_CHARACTERS // 75))
        write_text(given / "texts" / f"{number}.txt", "\n".join(lines))
    questions = (
        {"context": rng.choice(words), "choices": rng.sample(words, 4), "answer": rng.randrange(4)}
        for _ in range(_QUESTIONS)
    )
    write_text(given / "questions.jsonl", "".join(json.dumps(row) + "\n" for row in questions))
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(_DOCUMENTS)]
    texts[::9] = [f"{text} a@b.org" for text in texts[1::9]][: len(texts[::9])]  # duplicates
    for number in range(_TASKS):
        rows = (json.dumps({"text": text}) + "\n" for text in texts[number::_TASKS])
        write_text(given / "documents" / f"{number}.jsonl", "".join(rows))
    preparation = _PREPARATION.format(path=str(given / "documents"), tasks=_TASKS)
    write_text(given / "preparation.py", preparation)
    experiment = json.dumps(to_dict(read_experiment(place.drill.finished)))
    write_text(given / "sweep.py", _SWEEP.format(experiment=experiment))


def _evaluate(place: Place) -> dict[str, list[str]]:
    given, output = place.given, f"--output={place.folder / 'output'}"
    found = {
        "by position": ["--by_position"],
        "texts": [f"--text={given / 'texts'}", output],
        "task": [f"--task={given / 'questions.jsonl'}", output],
    }
    if getattr(read_experiment(place.drill.finished).data, "test_path", ""):
        found["test"] = ["--split=test"]
    return {name: [f"--workdir={place.workdir}", *flags] for name, flags in found.items()}


def _generate(place: Place) -> dict[str, list[str]]:
    flags = ["--prompt=The", "--num_samples=4", "--max_new_tokens=60"]
    return {"samples": [f"--workdir={place.workdir}", *flags]}


def _translate(place: Place) -> dict[str, list[str]]:
    own = [f"--workdir={place.workdir}", f"--limit={_SOURCES}"]
    own.append(f"--output={place.folder / 'output.tsv'}")
    return {"greedy": [*own, "--num_beams=1"], "beams": [*own, "--num_beams=2"]}


def _export(place: Place) -> dict[str, list[str]]:
    output = f"--path={place.folder / 'output'}"
    return {"Hugging Face": ["--to=hf", f"--workdir={place.workdir}", output]}


def _prepare(place: Place) -> dict[str, list[str]]:
    own = [f"--config={place.given / 'preparation.py'}", f"--output={place.folder / 'output'}"]
    return {"one worker": own, "two workers": [*own, "--workers=2"]}


def _sweep(place: Place) -> dict[str, list[str]]:
    own = [f"--config={place.given / 'sweep.py'}", f"--sweepdir={place.folder / 'sweep'}"]
    return {"one by one": own}


def _together(place: Place) -> dict[str, list[str]]:
    return {"two runs": [*_sweep(place)["one by one"], "--together=2"]}


def _corpus(place: Place) -> dict[str, bytes]:
    """Returns the files of a corpus; stdout tells a time."""
    return {name: content for name, content in place.files().items() if name != STDOUT}


def _swept(place: Place) -> dict[str, bytes]:
    """Returns summaries of the runs of a sweep, and its results without times."""
    found = {name: judge.summary(path) for name, path in _runs(place).items()}
    return found | _results(place, lambda cell: cell)


def _swept_together(place: Place) -> dict[str, bytes]:
    """Returns whether each run can be read, and the results of the sweep, rounded.

    A run that goes on alone, because the other one had a later checkpoint, or none, is the same up
    to rounding.
    """
    summaries = {name: judge.summary(path) for name, path in _runs(place).items()}
    found = {name: b"" if b"|" in text else text for name, text in summaries.items()}
    return found | _results(place, _rounded)


def _runs(place: Place) -> dict[str, Path]:
    paths = sorted((place.folder / "sweep" / "runs").glob("*-*"))
    return {f"run {path.name.rpartition('-')[0]}": path for path in paths}


def _results(place: Place, cell_of: Callable[[str], str]) -> dict[str, bytes]:
    """Returns the plan of a sweep and its results without times, as far as they are there."""
    plan, table = place.folder / "sweep" / "sweep.json", place.folder / "sweep" / "results.csv"
    found = {plan.name: plan.read_bytes()} if plan.exists() else {}
    if table.exists():
        with table.open(newline="") as file:
            rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
        cells = [{name: cell_of(cell) for name, cell in row.items()} for row in rows]
        found[table.name] = json.dumps(cells).encode()
    return found


def _rounded(cell: str) -> str:
    """Returns a cell of a table, a number with five digits."""
    with contextlib.suppress(ValueError):
        return f"{float(cell):.5g}"
    return cell


def _in_windows(experiment: Experiment) -> bool:
    return objective_of(experiment).in_windows


PROGRAMS: Mapping[str, Program] = {
    "evaluate": Program("launch.evaluate", _evaluate, _in_windows),
    "generate": Program("launch.generate", _generate, _in_windows),
    "translate": Program(
        "launch.translate", _translate, lambda each: objective_of(each).prompts_are_sources
    ),
    "export": Program("launch.convert", _export, _in_windows, repeats=False),
    "prepare": Program(
        "launch.prepare_data",
        _prepare,
        lambda experiment: importlib.util.find_spec("datatrove") is not None,
        shown=_corpus,
        unfinished="output.partial",
        sources="documents",
    ),
    "sweep": Program(
        "launch.sweep",
        _sweep,
        lambda experiment: True,
        shown=_swept,
        is_atomic=False,
        unfinished="sweep",
    ),
    "together": Program(
        "launch.sweep",
        _together,
        lambda experiment: True,
        shown=_swept_together,
        is_atomic=False,
        unfinished="sweep",
    ),
}
