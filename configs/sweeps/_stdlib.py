"""The common settings of studies on the bytes of Python's standard library."""

from lm_jax.config.experiment import (
    CheckpointConfig,
    EvaluationConfig,
    Experiment,
    SamplesConfig,
    TrainingConfig,
)
from lm_jax.data import DataConfig, TokenizerConfig


def on_stdlib() -> Experiment:
    """Returns an experiment with batches of 8 windows, evaluated on the whole split at the end."""
    return Experiment(
        data=DataConfig(
            source="stdlib",
            validation_fraction=0.02,
            tokenizer=TokenizerConfig(kind="byte"),
        ),
        training=TrainingConfig(batch_size=8, steps_per_call=20, log_every_steps=20),
        evaluation=EvaluationConfig(
            every_steps=0,
            batch_size=64,
            max_tokens=1_000_000,  # more than it has: runs of every length measure the same
            baselines=False,
        ),
        checkpoint=CheckpointConfig(every_steps=2000, keep_last=1),
        samples=SamplesConfig(num_samples=1, max_new_tokens=64),
        tensorboard=False,
    )
