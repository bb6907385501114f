"""The flag of programs that read a trained model: what its weights become."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch import program

if TYPE_CHECKING:
    from lm_jax.runs.trained_run import Run

WEIGHTS = flags.DEFINE_string(
    "weights",
    "float32",
    "float32, as they were trained; int8: those of dense layers are rounded to a quarter of the "
    "bytes.",
)


def load(workdir: str, checkpoint: str) -> "Run":
    """Returns a run with the weights that the flag names; raises UserError as `trained_run.load`.

    Args:
      checkpoint: last, best, or a step.
    """
    from lm_jax.runs import trained_run

    return trained_run.load(Path(workdir), checkpoint, weights=WEIGHTS.value, log=program.log)
