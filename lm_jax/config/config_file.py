"""Loads experiments and sweeps from Python files."""

import difflib
import inspect
from pathlib import Path
from typing import Any

from lm_jax.choices import load_file
from lm_jax.errors import UserError


def call_config_file(name: str, function: str, shipped: str) -> Any:
    """Returns what a function of a Python file returns.

    The file may be anywhere. It may import its neighbors, and define a model family, an objective
    or a reader of its own.

    Args:
      name: FILE, or FILE:CHOICE; the choice is the argument of the function.
      function: the name of the function, such as `get_config`.
      shipped: where files of this kind are found, for messages.

    Raises:
      UserError: there is no such file or no such function, or the function takes no such argument
        or raises a UserError itself.
    """
    path, colon, choice = name.partition(":")
    if not Path(path).is_file():
        meant = _nearest(Path(path), shipped)
        there = f"the shipped ones are {shipped} in the folder of lm_jax"
        hint = f"did you mean {meant}?" if meant else there
        raise UserError(f"--config={name}: no such file (from {Path.cwd()}); {hint}")
    if not path.endswith(".py"):
        is_run = Path(path).name == "config.json"
        hint = "; --workdir=RUN alone resumes a run" if is_run else ""
        raise UserError(
            f"--config={name} is no Python file (.py); the shipped ones are {shipped}{hint}"
        )
    found = getattr(load_file(Path(path)), function, None)
    if not callable(found):
        raise UserError(f"{path} has no {function}(); the shipped files {shipped} show what it is")
    arguments = [choice] if colon else []
    try:
        inspect.signature(found).bind(*arguments)
    except TypeError as error:
        raise UserError(
            f"--config={name}: {function}() of {path} cannot be called with {arguments} ({error}); "
            "a choice is given as --config=FILE:CHOICE"
        ) from None
    try:
        return found(*arguments)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _nearest(path: Path, shipped: str) -> Path | None:
    """Returns the file with the most similar name, beside the path or of those shipped."""
    found = {file.stem: file for file in [*Path().glob(shipped), *path.parent.glob("*.py")]}
    close = difflib.get_close_matches(path.stem, found, n=1)
    return found[close[0]] if close else None
