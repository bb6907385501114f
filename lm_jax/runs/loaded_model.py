"""What the functions of this folder read of a trained run."""

import dataclasses
import functools
from pathlib import Path

from lm_jax import data
from lm_jax.build import BuiltExperiment
from lm_jax.config.experiment import Experiment
from lm_jax.evaluation.loss_sums import (
    MeasuredFunction,
    make_loss_function,
)
from lm_jax.models.interface import Model, Variables
from lm_jax.runs.weights import FLOAT32


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LoadedModel:
    """The model of a run: its functions, its tokenizer and its variables at a step."""

    workdir: Path
    built: BuiltExperiment
    tokenizer: data.Tokenizer | None  # None: it reads no text
    step: int
    variables: Variables
    weights: str = FLOAT32  # one of `WEIGHTS`

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.workdir.name + ("" if self.weights == FLOAT32 else f" in {self.weights}")

    @property
    def model(self) -> Model:
        """The pure functions of the model, such as `apply`: see `lm_jax.models.interface`."""
        return self.built.model

    @property
    def config(self) -> Experiment:
        """The experiment, filled in with the sizes that its data decided."""
        return self.built.experiment

    @functools.cached_property
    def losses(self) -> MeasuredFunction:
        """(variables, batch) -> what each target cost, compiled once for each shape."""
        return make_loss_function(self.built.loss)
