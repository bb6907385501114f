"""Experiments on one device that are small enough to time in a test."""

import json

import jax
import pytest

from lm_jax.build import BuiltExperiment, build_experiment
from lm_jax.config.experiment import Experiment
from lm_jax.costs.model_flops import count_parameters
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.transformer.config import TransformerConfig
from tests.experiments import tiny

LSTM = RecurrentConfig(50, context_length=16, num_layers=1, d_hidden=8)


def small(**fields) -> BuiltExperiment:
    """Builds one layer of width 32, 50 tokens, 4 rows of 16 per step, 2 steps per dispatch."""
    model = TransformerConfig(50, context_length=16, num_layers=1, d_model=32, num_heads=2)
    shapes = {"training__batch_size": 4, "training__steps_per_call": 2, "mesh": "data:1"}
    return compiled(tiny(**{"model": model, "evaluation__batch_size": 4} | shapes | fields))


def check_measured(built: BuiltExperiment, result: dict) -> None:
    """Checks what `train_step.measure` found for `small()`, which computes 64 targets a step."""
    json.dumps(result)
    assert result["targets_per_step"] == 64 and result["steps_per_dispatch"] == 2
    assert result["parameters"] == count_parameters(built.experiment.model)["total"]
    assert result["memory"]["planned"] > 12 * result["parameters"]  # and two moments, float32
    flops, measured = result["flops"]["per_step"], result["peak_flops"]["measured"]
    for rate in result["programs"].values():
        spread = rate["seconds"]
        assert 0 < spread["lower_quartile"] <= spread["median"] <= spread["upper_quartile"]
        assert rate["per_second"] == pytest.approx(64 / spread["median"])
        assert rate["mfu"] == pytest.approx(flops / spread["median"] / measured)
        assert "mfu_published" not in rate


def compiled(experiment: Experiment) -> BuiltExperiment:
    """Builds an experiment whose model already has all its sizes."""
    return build_experiment(experiment, {"vocab_size": 1}, jax.devices()[:1])
