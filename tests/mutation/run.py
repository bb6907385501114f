"""Breaks each line of `MUTATIONS` in a copy of the tree and runs the tests that should notice.

  python -m tests.mutation.run
  python -m tests.mutation.run --only=beam_search --output=table.md

A broken line is caught when a test of `make test` fails. Prints a table and exits with status 1 if
more than three lines survive, or at once if a line is not found exactly once.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
MOST_SURVIVORS = 3
_FOLDERS = ("benchmarks", "configs", "docs", "launch", "lm_jax", "tests")
_FILES = ("README.md", "LICENSE", "setup.cfg", "pyproject.toml", "Makefile")


def misplaced(mutations: Sequence[Mutation], root: Path = ROOT) -> list[str]:
    """Returns what is wrong with each mutation whose old text is not in its file exactly once."""
    wrong = []
    for mutation in mutations:
        count = (root / "lm_jax" / mutation.path).read_text(encoding="utf-8").count(mutation.old)
        if count != 1:
            wrong.append(f"{mutation.path}: found {count} times, expected once: {mutation.old}")
        for tests in mutation.tests.split():
            if not (root / "tests" / tests).exists():
                wrong.append(f"{mutation.path}: there is no tests/{tests}")
    return wrong


def is_caught(mutation: Mutation, tree: Path) -> bool:
    """Breaks the line in the tree, runs its tests until one fails, and mends the line."""
    path = tree / "lm_jax" / mutation.path
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    tests = [f"tests/{name}" for name in mutation.tests.split()]
    options = ["-m", "not slow", "-x", "-n0", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(whole, encoding="utf-8")
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"pytest ended with status {done.returncode}: {done.stdout[-2000:]}")
    return done.returncode != 0


def main() -> int:
    """Prints a row for each mutation as it is tried, and how many were caught."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a part of the paths to try")
    parser.add_argument("--share", default="1/1", help="2/3: the second of three equal shares")
    parser.add_argument("--output", help="a file for the table")
    arguments = parser.parse_args()
    if wrong := misplaced(MUTATIONS):
        print("\n".join(wrong), file=sys.stderr)
        return 2
    tried = [mutation for mutation in MUTATIONS if arguments.only in mutation.path]
    first, step = map(int, arguments.share.split("/"))
    tried = tried[first - 1 :: step]
    rows = ["| file | line | caught | seconds |", "| --- | --- | --- | --- |"]
    survivors = 0
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        for name in _FOLDERS:
            shutil.copytree(ROOT / name, tree / name)
        for name in _FILES:
            shutil.copy(ROOT / name, tree / name)
        for mutation in tried:
            started = time.monotonic()
            caught = is_caught(mutation, tree)
            survivors += not caught
            line = " ".join(mutation.old.split()).replace("|", "\\|")
            seconds = time.monotonic() - started
            rows.append(
                f"| {mutation.path} | `{line}` | {'yes' if caught else '**no**'} | {seconds:.0f} |"
            )
            print(rows[-1], flush=True)
    rows.append(f"\n{len(tried) - survivors} of {len(tried)} caught")
    print(rows[-1])
    if arguments.output:
        Path(arguments.output).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return int(survivors > MOST_SURVIVORS)


if __name__ == "__main__":
    sys.exit(main())
