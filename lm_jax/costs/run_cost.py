"""The cost of a run before it starts: parameters, targets, FLOPs, memory; allocates nothing."""

import functools
import json
from collections.abc import Mapping
from typing import NamedTuple

import jax

from lm_jax.build import build_experiment
from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    TrainingConfig,
    sequences_per_step,
)
from lm_jax.config.serialization import from_dict, to_dict
from lm_jax.costs.compiled_step import step_flops
from lm_jax.costs.model_flops import count_parameters, embedding_split
from lm_jax.models import family_of
from lm_jax.objectives import targets_per_step
from lm_jax.objectives.validation import validate
from lm_jax.training.state import state_bytes


class Cost(NamedTuple):
    """The cost of a whole run; a count-based model has zeros, except for known sizes."""

    parameters: int
    non_embedding_parameters: int  # Kaplan et al. 2020: without tables of tokens and positions
    steps: int
    training_tokens: int  # targets: tokens, pairs or examples
    flops_per_step: int
    state_bytes: int  # parameters, gradients and optimizer state

    @property
    def training_flops(self) -> int:
        """Matrix-product FLOPs of all steps: see `compiled_step.step_flops`."""
        return self.steps * self.flops_per_step


def cost_of(experiment: Experiment, sizes: Mapping[str, int] | None = None) -> Cost:
    """Returns the cost of a run; runs of equal shapes are traced once.

    Args:
      sizes: sizes that the data decides (`vocab_size`, ...); None: the configuration has all.

    Raises:
      UserError: the experiment cannot run, or its model cannot be built.
    """
    validate(experiment)
    traced = _trace(shape_of(experiment, sizes))
    steps = experiment.training.num_steps if traced.flops_per_step else 1
    targets = targets_per_step(experiment) * steps if traced.flops_per_step else 0
    return traced._replace(steps=steps, training_tokens=targets)


def shape_of(experiment: Experiment, sizes: Mapping[str, int] | None = None) -> str:
    """Returns as JSON what decides the shapes of a train step; equal for runs of equal shapes."""
    rows = sequences_per_step(experiment)
    parts = experiment.training.gradient_accumulation_steps
    model = family_of(experiment.model).for_any_device(experiment.model)
    shape = Experiment(
        objective=experiment.objective,
        model=model,
        data=experiment.data,
        denoising=experiment.denoising,
        optimizer=OptimizerConfig(name=experiment.optimizer.name),
        training=TrainingConfig(batch_size=rows, gradient_accumulation_steps=parts),
        mesh="data:1",
        fine_tuning=experiment.fine_tuning,
        evaluation=EvaluationConfig(batch_size=1),
        compute_dtype=experiment.compute_dtype,
    )
    values = {"sizes": dict(sizes or {}), "experiment": to_dict(shape)}
    return json.dumps(values, sort_keys=True)


@functools.cache
def _trace(shape: str) -> Cost:
    """Returns the cost of one step."""
    values = json.loads(shape)
    experiment = from_dict(values["experiment"])
    built = build_experiment(experiment, values["sizes"], jax.local_devices()[:1])
    counts = count_parameters(built.experiment.model)
    flops = bytes_of_state = 0
    if not built.model.is_count_based:
        flops = step_flops(built)
        bytes_of_state = state_bytes(built.model, built.optimizer, built.example, built.is_trained)
    return Cost(counts["total"], embedding_split(counts).non_embedding, 1, 0, flops, bytes_of_state)
