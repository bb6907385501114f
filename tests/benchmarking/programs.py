"""Experiments on one device that are small enough to time in a test."""

import jax

from lm_jax.build import BuiltExperiment, build_experiment
from lm_jax.config.experiment import Experiment
from lm_jax.models.transformer.config import TransformerConfig
from tests.experiments import tiny


def small(**fields) -> BuiltExperiment:
    """Builds one layer of width 32, 50 tokens, 4 rows of 16 per step, 2 steps per dispatch."""
    model = TransformerConfig(50, context_length=16, num_layers=1, d_model=32, num_heads=2)
    shapes = {"training__batch_size": 4, "training__steps_per_call": 2, "mesh": "data:1"}
    return compiled(tiny(**{"model": model, "evaluation__batch_size": 4} | shapes | fields))


def compiled(experiment: Experiment) -> BuiltExperiment:
    """Builds an experiment whose model already has all its sizes."""
    return build_experiment(experiment, {"vocab_size": 1}, jax.devices()[:1])
