"""Experiments as programs on one simulated device or on eight."""

import jax
import numpy as np

from lm_jax.build import build_experiment
from lm_jax.costs.compiled_step import batch_shapes
from lm_jax.training.state import init_state

VOCABULARY = 64  # divides over every mesh


def random_batch(built, step):
    """A batch of the shapes that the program takes, several documents a row."""
    rng = np.random.default_rng(step)
    batch = {}
    for name, shape in batch_shapes(built).items():
        if shape.dtype == np.float32:
            values = rng.random(shape.shape)
        elif "segments" in name:
            values = np.sort(rng.integers(1, 4, shape.shape), axis=-1)
        elif "positions" in name:
            values = np.broadcast_to(np.arange(shape.shape[1]) % 5, shape.shape)
        else:
            values = rng.integers(0, 8, shape.shape)  # of 8 tokens alone, so that the loss falls
        batch[name] = values.astype(shape.dtype)
    return batch


def begin(config, sizes):
    """The program of an experiment, and its first state, on one device or on eight."""
    devices = jax.devices()[: 1 if config.mesh == "data:1" else 8]
    built = build_experiment(config, sizes, devices)
    arguments = (built.model, built.optimizer, built.example, built.mesh)
    return built, init_state(*arguments, config.seed)
