"""Language-model research in JAX: every architecture a pure function from parameters to logits.

`lm_jax.load` reads a trained run and `lm_jax.train` makes one (docs/python.md). What they need is
imported when they are called, so that `import lm_jax` costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from lm_jax.config.experiment import Experiment
    from lm_jax.runs.trained_run import Run

__version__ = "0.1.0"


def load(
    path: "str | Path",
    checkpoint: str | int = "last",
    *,
    weights: str = "float32",
    trust_code: bool = False,
) -> "Run":
    """Returns a trained model, to score texts, to generate, to look inside and to train further.

    Args:
      path: a work directory, the folder of a Hugging Face model, or a GGUF file; a model of others
        is imported into the user's cache when it is first loaded (docs/interop.md).
      checkpoint: `last`, `best`, or the number of a step.
      weights: `float32`, or `int8` for the weights of dense layers (docs/generation.md).
      trust_code: whether to run the code from outside that the directory names; said once, it holds
        for later calls and programs. Runs that you trained need it not.

    Raises:
      UserError: the directory holds no run, no such checkpoint, or none that can be read; it names
        code that you do not trust; the model of others is not supported; or it has no such weights.
    """
    from lm_jax.interop.import_cache import work_directory_of
    from lm_jax.runs import trained_run

    return trained_run.load(
        work_directory_of(path), str(checkpoint), weights=weights, trust_code=trust_code
    )


def train(
    experiment: "Experiment",
    workdir: "str | Path",
    *,
    on_metrics: "Callable[[int, Mapping[str, Any]], None]" = lambda step, metrics: None,
) -> "Run":
    """Trains an experiment that was built in code, or resumes it, and returns the run.

    A warm-up that would take all steps becomes a tenth of them, with a line on stderr.

    An interrupt, Ctrl-C or a notebook's stop button, saves the state and returns the run as it then
    is; the same call resumes it.

    Args:
      workdir: where its checkpoints, metrics and report go.
      on_metrics: called with each step that is logged and its numbers, such as `train/loss` and
        `evaluation/cross_entropy`.

    Raises:
      UserError: before anything is written, when the experiment cannot run or the work directory
        belongs to another; later, when the loss is no longer finite.
      OSError: the work directory or the cache cannot be written.
    """
    from lm_jax.runs import train_from_python, trained_run

    train_from_python.train(experiment, workdir, on_metrics)
    return trained_run.load(workdir)
