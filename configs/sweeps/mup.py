r"""The best learning rate at widths 64 to 1,024, in muP and in the standard parametrisation.

  python -m launch.sweep --config=configs/sweeps/mup.py --plan
  python -m launch.sweep --config=configs/sweeps/mup.py --sweepdir=sweeps/mup --together=7

Transformers of 2 layers with heads of 32; those of width 64 are the same in both. The standard
parametrisation is given lower rates, too, where it is wider. 56 runs of 18 thousand tokens each,
4.4e13 FLOPs in all, three quarters of them at width 1,024: under half an hour where 2 CPU cores
make 35 GFLOP/s. They leave 5 GB of checkpoints. Not run yet.
"""

import dataclasses

from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.experiment import (
    CheckpointConfig,
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.models.transformer import TransformerConfig
from lm_jax.scaling.sweeps import grid

WIDTHS = (64, 128, 256, 512, 1024)
HEAD_WIDTH = 32


def get_sweep() -> dict[str, Experiment]:
    """At each width learning rates 2^-k in muP, then in the standard parametrisation."""
    base = Experiment(
        data=DataConfig(
            split="tail", validation_fraction=0.02, tokenizer=TokenizerConfig(kind="byte")
        ),
        optimizer=OptimizerConfig(weight_decay=0.0),
        schedule=ScheduleConfig(warmup_steps=10),
        training=TrainingConfig(num_steps=70, batch_size=8),
        evaluation=EvaluationConfig(every_steps=0, batch_size=64, baselines=False),
        checkpoint=CheckpointConfig(every_steps=0, keep_last=1),
        samples=SamplesConfig(num_samples=0),
        tensorboard=False,
    )
    shape = TransformerConfig(
        context_length=32, num_layers=2, positions="rotary", tie_embeddings=False
    )
    runs: dict[str, Experiment] = {}
    for doublings, width in enumerate(WIDTHS):
        heads = width // HEAD_WIDTH
        model = {f"d{width}": dataclasses.replace(shape, d_model=width, num_heads=heads)}
        powers = {64: range(4, 9), 0: range(4 + doublings // 2, 9 + doublings)}
        for base_width, ks in powers.items():
            rates = [2.0**-k for k in ks]
            fields = {"mup_base_width": [base_width], "model": model}
            runs |= grid(base, fields | {"schedule.peak_learning_rate": rates})
    return runs
