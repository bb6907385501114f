"""Language-model research in JAX: every architecture a pure function from parameters to logits.

`lm_jax.load` reads a trained run (docs/python.md). What it needs is imported when it is called, so
that `import lm_jax` costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lm_jax.runs.trained_run import Run

__version__ = "0.1.0"


def load(path: "str | Path", checkpoint: str = "last") -> "Run":
    """Returns the run of a work directory, to score texts, to generate and to look inside with.

    Args:
      checkpoint: `last`, `best`, or the number of a step.

    Raises:
      UserError: the directory holds no run, no such checkpoint, or none that can be read.
    """
    from lm_jax.runs import trained_run

    return trained_run.load(path, checkpoint)
