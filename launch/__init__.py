"""The programs: `python -m launch.train --help`, and likewise every other module here."""

import importlib.util
import sys
from collections.abc import Sequence


def what_is_missing(packages: Sequence[str]) -> str:
    """Returns what to do where packages are not installed for this Python; "" where all are."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"error: {sys.executable} has no {', '.join(missing)}; use the Python that `make demo` set "
        "up, .venv/bin/python, or install lm_jax for this one: python -m pip install -e ."
    )


# Before the imports of a program, which would end in a traceback.
if _missing := what_is_missing(("absl", "jax", "flax", "optax")):
    sys.exit(_missing)
