"""Experiments as programs on one simulated device or on eight."""

import jax
import numpy as np

from lm_jax import build as programs
from lm_jax.costs.compiled_step import batch_shapes
from lm_jax.training import loop as training

VOCABULARY = 64  # divides over every mesh


def random_batch(program, step):
    """A batch of the shapes that the program takes, several documents a row."""
    rng = np.random.default_rng(step)
    batch = {}
    for name, shape in batch_shapes(program).items():
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
    program = programs.compile_experiment(config, sizes, devices)
    arguments = (program.model, program.optimizer, program.example, program.mesh)
    return program, training.init_state(*arguments, config.seed)
