"""Code of strangers for tests: it leaves a trace where it runs."""

import json
import os
from pathlib import Path

import pytest

from lm_jax import trusted_code

TRACE = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"


def write(path: Path, code: str = "THING = object()\n") -> Path:
    """Writes a Python file that leaves a trace beside it when it runs, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TRACE + code)
    return path


def has_run(path: Path) -> bool:
    """Returns whether a file of `write` has run, and forgets it."""
    trace = path.with_suffix(".ran")
    found = trace.exists()
    trace.unlink(missing_ok=True)
    return found


def new_process(patch: pytest.MonkeyPatch) -> None:
    """Forgets what this process has read and may run, as a new one; the user's list stays."""
    patch.setattr(trusted_code, "_named_by", {})
    patch.setattr(trusted_code, "_state", {"consents": False, "says": True})
    patch.setitem(os.environ, "LM_JAX_TRUSTED_CODE", "")


def run_directory(directory: Path, **parts: object) -> Path:
    """Writes the `config.json` of a work directory, and returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(parts))
    return directory
