"""Programs of single models, in muP or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.build import BuiltExperiment, build_experiment
from lm_jax.config.experiment import Experiment, ScheduleConfig
from lm_jax.data import LabelledTextConfig
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.training.state import init_state, variables_of


def experiment_of(config, **fields) -> Experiment:
    experiment = default_experiment(config)
    if isinstance(config, RecurrentClassifierConfig) or getattr(config, "pooling", "") == "first":
        experiment.objective, experiment.data = "classification", LabelledTextConfig(path="*.tsv")
    experiment.schedule = ScheduleConfig("constant", 2**-8, warmup_steps=0)
    experiment.mesh, experiment.training.num_steps = "data:1", 200
    return dataclasses.replace(experiment, **fields)


def compiled(config, **fields) -> BuiltExperiment:
    sizes = {"vocab_size": 10}  # at least
    return build_experiment(experiment_of(config, **fields), sizes, jax.devices()[:1])


def in_mup(config, growth=4, **fields) -> BuiltExperiment:
    return compiled(config, mup_base_width=getattr(config, config.widths()[0]) // growth, **fields)


def random_batch(built, rows=8, seed=0):
    rng, vocab = np.random.default_rng(seed), built.experiment.model.vocab_size
    shape = (rows, *built.example["inputs"].shape[1:])
    tokens = {name: rng.integers(0, vocab, shape, np.int32) for name in ("inputs", "targets")}
    return {**tokens, "weights": np.ones(shape, np.float32)}


def run(built, steps=4):
    """Losses of a few steps on one row, and the root mean square of what its logits change.

    With many more tokens the noise that falls with width is most of what narrow models learn.
    """
    batch = jax.tree.map(jnp.asarray, random_batch(built, rows=1))
    state = init_state(built.model, built.optimizer, built.example, built.mesh, seed=0)

    @jax.jit
    def train(state):
        after, metrics = jax.lax.scan(
            lambda s, _: built.train_step(s, batch), state, None, length=steps
        )
        before_btv, after_btv = (
            built.model.apply(variables_of(s), batch, train=False)[0] for s in (state, after)
        )
        return metrics["loss"], jnp.sqrt(jnp.mean(jnp.square(after_btv - before_btv)))

    losses, change = train(state)
    return np.asarray(losses), float(change)
