"""Finds the commands that documents and docstrings show, and parses each without running it.

  python -m tests.documented_commands commands.json

reads a JSON list of command lines and prints a JSON list of error messages, null where a command
parses: its program exists, knows every flag, and its `--config` file loads and validates.
"""

import ast
import gc
import importlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.every_module import import_every_module

ROOT = Path(__file__).parents[1]
# Runs that commands continue, by the configurations that documents train them with.
RUNS = {
    "runs/quickstart": "configs/quickstart.py",
    "runs/bert": "configs/bert.py",
    "runs/mnist_lenet5": "configs/mnist_lenet5.py",
    "runs/shakespeare": "configs/shakespeare_char_cpu.py",
    "runs/imported": "configs/quickstart.py",  # no configuration trained it
}


def documents() -> list[Path]:
    """Returns README.md and every page under docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_of_document(text: str) -> Iterator[str]:
    """Yields each `python -m ...` of a Markdown page, in a block of code or within a sentence."""
    blocks = re.compile(r"```\w*\n(.*?)```", flags=re.DOTALL)
    for block in blocks.findall(text):
        yield from commands_of_lines(block)
    for span in re.findall(r"`(python -m [^`]+)`", blocks.sub("", text)):
        yield " ".join(span.split())


def commands_of_docstring(path: Path) -> Iterator[str]:
    """Yields each indented `python -m ...` of a module's docstring."""
    yield from commands_of_lines(ast.get_docstring(ast.parse(path.read_text()), clean=False) or "")


def commands_of_lines(text: str) -> Iterator[str]:
    """Yields the lines that begin with `python -m`, joined where they end in a backslash."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip().startswith("python -m "):
            yield line.strip()


def error_of(command: str) -> str | None:
    """Returns why a command does not parse, None if it does; call it in a process of its own."""
    _, _, program, *arguments = shlex.split(command, comments=True)
    is_new = program != "launch.train" or any(a.startswith("--config=") for a in arguments)
    names_run = "--from_workdir" if is_new or "--from_workdir" in command else "--workdir"
    with tempfile.TemporaryDirectory() as directory:
        found = [_with_run(argument, names_run, directory) for argument in arguments]
        return _error_of(program, found)


def _with_run(argument: str, names_run: str, directory: str) -> str:
    """Returns an argument; the run that is continued is replaced by one that is written here."""
    from lm_jax.config.config_file import call_config_file
    from lm_jax.config.serialization import dumps

    flag, _, run = argument.partition("=")
    if flag != names_run:
        return argument
    experiment = call_config_file(RUNS[run], "get_config", "configs/*.py")
    experiment.data.path = experiment.data.path or ("" if experiment.data.has_text else "data")
    (Path(directory) / "config.json").write_text(dumps(experiment))
    return f"{flag}={directory}"


def _error_of(program: str, arguments: list[str]) -> str | None:
    from absl import app, flags

    from launch import experiment_flags

    sys.argv = [program, *arguments]
    app.define_help_flags()
    module = importlib.import_module(program)
    if "--help" in arguments:
        return None
    try:
        experiment_flags.parse(sys.argv)
    except SystemExit as end:
        if end.code == 0:  # --help_config
            return None
        raise
    given = flags.FLAGS.flag_values_dict()
    config = given.get("config")
    if config is None and given.get("from_workdir") is None:
        return None
    if hasattr(module, "experiment_flags"):
        experiment_flags.configuration()
        return None
    path = Path(config.partition(":")[0])  # a sweep
    return None if path.is_file() else f"there is no {path}"


def main() -> None:
    """Parses each command in a fork of this process, so that no two share their flags."""
    import_every_module()  # once, for all forks
    importlib.import_module("absl.app")
    importlib.import_module("launch.experiment_flags")  # which defines no flags by itself
    gc.freeze()  # which then copy fewer pages
    found: list[str | None] = []
    for command in json.loads(Path(sys.argv[1]).read_text()):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            sys.stdout = sys.stderr = io.StringIO()
            try:
                error = error_of(command)
            except BaseException:
                error = traceback.format_exc(limit=-3)
            with os.fdopen(writer, "w") as pipe:
                json.dump(error, pipe)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            found.append(json.load(pipe))
        os.waitpid(child, 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
