"""An experiment for a bare model, to look at its costs and its speed."""

from typing import Any

from lm_jax.config.experiment import Experiment
from lm_jax.data.config import KINDS
from lm_jax.models import family_of
from lm_jax.objectives import objective_of


def default_experiment(model: Any) -> Experiment:
    """Returns an experiment that trains a model for the first objective of its family.

    Its data are of the right kind, made up or small; labelled texts have no path yet.

    Raises:
      UserError: the model's configuration belongs to no family.
    """
    family = family_of(model)
    experiment = Experiment(objective=family.objectives[0], model=model)
    objective = objective_of(experiment)
    fitting = (kind for kind in objective.data_kinds if KINDS[kind].has_text != family.reads_images)
    experiment.data = KINDS[next(fitting)].small()
    return experiment
