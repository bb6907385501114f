"""Mutations that lead to new code are kept and mutated again, where atheris is installed.

pip install atheris: github.com/google/atheris, libFuzzer for Python.
"""

import contextlib
import importlib
import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

from tests.fuzz.mutations import drawn, mutated

_READERS = ["lm_jax", "gguf", "polib"]  # whose code is watched
_QUIET = (
    "-verbosity=0 -timeout=600 -rss_limit_mb=0 -detect_leaks=0 -handle_segv=0 -handle_abrt=0 "
    "-handle_bus=0 -handle_fpe=0 -handle_ill=0 -handle_int=0 -handle_term=0"
).split()


def atheris() -> ModuleType | None:
    """Returns the package, None if it is not installed."""
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def watched_imports() -> AbstractContextManager[object]:
    """Returns a context in which imported readers are made to report the code that runs."""
    found = atheris()
    if found is None:
        return contextlib.nullcontext()
    return found.instrument_imports(include=_READERS)


def run_guided(
    try_one: Callable[[bytes], None], whole: bytes, seconds: float, seed: int, corpus: Path
) -> None:
    """Tries mutations of a whole file for so long, and ends the process."""
    found = atheris()
    assert found is not None

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        source = random.Random(number)
        if source.random() < 0.5:
            return found.Mutate(data, max_size)
        return mutated(data, drawn(source))[:max_size]

    corpus.mkdir()
    (corpus / "whole").write_bytes(whole)
    limits = [f"-max_total_time={max(int(seconds), 1)}", f"-seed={seed + 1}"]
    limits.append(f"-max_len={len(whole) * 4 + 8192}")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libFuzzer tells there what it does
    found.Setup(["fuzz", *_QUIET, *limits, str(corpus)], try_one, custom_mutator=mutate)
    found.Fuzz()
