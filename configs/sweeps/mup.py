r"""The best learning rate at widths 64 to 1,024, in muP and in the standard parametrisation.

  python -m launch.sweep --config=configs/sweeps/mup.py --plan
  python -m launch.sweep --config=configs/sweeps/mup.py --sweepdir=sweeps/mup \
      --processes=2 --together=5

Transformers of 2 layers with heads of 32; those of width 64 are the same in both, trained twice for
two lines of one picture. Five rates, a factor of two apart, at each width; the standard
parametrisation is given lower ones where it is wider. Widths up to 256 with three seeds. 110 runs
of 31 thousand bytes each, 7e13 FLOPs in all, two thirds of them at width 1,024. They leave 5 GB of
checkpoints.
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

SEEDS = {64: 3, 128: 3, 256: 3, 512: 1, 1024: 1}  # by width
HIGHEST = {64: 7, 128: 8, 256: 9, 512: 9, 1024: 10}  # rate 2^-k, in the standard parametrisation
HEAD_WIDTH = 32


def get_sweep() -> dict[str, Experiment]:
    """At each width learning rates 2^-k in muP, then in the standard parametrisation."""
    base = Experiment(
        data=DataConfig(
            split="tail", validation_fraction=0.02, tokenizer=TokenizerConfig(kind="byte")
        ),
        optimizer=OptimizerConfig(weight_decay=0.0),
        schedule=ScheduleConfig(warmup_steps=12),
        training=TrainingConfig(num_steps=120, batch_size=8),
        evaluation=EvaluationConfig(every_steps=0, batch_size=64, baselines=False),
        checkpoint=CheckpointConfig(every_steps=0, keep_last=1),
        samples=SamplesConfig(num_samples=0),
        tensorboard=False,
    )
    shape = TransformerConfig(
        context_length=32, num_layers=2, positions="rotary", tie_embeddings=False
    )
    runs: dict[str, Experiment] = {}
    for width, seeds in SEEDS.items():
        heads = width // HEAD_WIDTH
        model = {f"d{width}": dataclasses.replace(shape, d_model=width, num_heads=heads)}
        for base_width, highest in {64: HIGHEST[64], 0: HIGHEST[width]}.items():
            fields = {
                "mup_base_width": [base_width],
                "model": model,
                "seed": range(seeds),
                "schedule.peak_learning_rate": [2.0**-k for k in range(highest, highest + 5)],
            }
            runs |= grid(base, fields)
    return runs
