r"""The best learning rate at widths 64 to 1,024, in muP and in the standard parametrisation.

  python -m launch.sweep --config=configs/sweeps/mup.py --plan
  python -m launch.sweep --config=configs/sweeps/mup.py --sweepdir=sweeps/mup \
      --processes=2 --together=5

Transformers of 2 layers with heads of 32; rates are a factor of two apart. muP starts from width
64, and from 256 with fewer rates. At its base width muP equals the standard parametrisation; that
run is trained twice, once for each line of the plot. The standard parametrisation gets lower rates
at larger widths. Widths up to 256 have three seeds, except in muP from 256. 119 runs of 31 thousand
bytes each, 9e13 FLOPs in all, two thirds of them at width 1,024: under an hour of 2 CPU cores. They
leave 6 GB of checkpoints.
"""

import dataclasses
from collections.abc import Iterable

from lm_jax.config.experiment import (
    CheckpointConfig,
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.sweeps.search_space import grid

SEEDS = {64: 3, 128: 3, 256: 3, 512: 1, 1024: 1}  # by width
# The highest rate of each width in the standard parametrisation is 2^-k.
HIGHEST = {64: 7, 128: 8, 256: 9, 512: 9, 1024: 10}
HEAD_WIDTH = 32


def get_sweep() -> dict[str, Experiment]:
    """Returns rates 2^-k per width in muP from 64 and standard, then in muP from 256."""
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
    runs: dict[str, Experiment] = {}
    for width, seeds in SEEDS.items():
        highest = {64: HIGHEST[64], 0: HIGHEST[width]}
        for base_width, first in highest.items():
            runs |= _runs(base, width, base_width, range(seeds), range(first, first + 5))
    for width in (256, 512, 1024):
        runs |= _runs(base, width, 256, [0], range(9, 12))
    return runs


def _runs(
    base: Experiment, width: int, base_width: int, seeds: Iterable[int], powers: Iterable[int]
) -> dict[str, Experiment]:
    shape = TransformerConfig(
        context_length=32, num_layers=2, positions="rotary", tie_embeddings=False
    )
    shape = dataclasses.replace(shape, d_model=width, num_heads=width // HEAD_WIDTH)
    fields = {
        "mup_base_width": [base_width],
        "model": {f"d{width}": shape},
        "seed": seeds,
        "schedule.peak_learning_rate": [2.0**-k for k in powers],
    }
    return grid(base, fields)
