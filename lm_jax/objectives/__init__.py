"""What a model is trained to do. Each file of this folder may define `OBJECTIVES`, a list.

Such a file is all that a new objective needs.
"""

import importlib
import pkgutil

from lm_jax.choices import choose
from lm_jax.config.experiment import Experiment, sequences_per_step
from lm_jax.errors import UserError
from lm_jax.objectives.interface import Objective as Objective

OBJECTIVES: dict[str, Objective] = {}  # by name; filled below


def objective_of(experiment: Experiment) -> Objective:
    """Returns the objective of an experiment: one of `OBJECTIVES`, or `file.py:ATTRIBUTE`.

    Raises:
      UserError: there is none of that name, or it cannot be imported.
    """
    objective = choose(OBJECTIVES, experiment.objective, "objective")
    if not isinstance(objective, Objective):
        raise UserError(
            f"objective is {experiment.objective!r}, a {type(objective).__name__}; "
            "expected an lm_jax.objectives.Objective"
        )
    return objective


def targets_per_step(experiment: Experiment) -> int:
    """Returns the largest number of targets of one optimizer step, over all processes."""
    sequences = sequences_per_step(experiment)
    fixed_rows = objective_of(experiment).fixed_rows
    return sequences * experiment.model.context_length if fixed_rows else sequences


for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    OBJECTIVES |= {objective.name: objective for objective in getattr(_module, "OBJECTIVES", ())}
