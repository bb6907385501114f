r"""IsoFLOP profiles of Transformers on the bytes of Python's standard library.

  python -m launch.sweep --config=configs/sweeps/isoflop.py --plan
  python -m launch.sweep --config=configs/sweeps/isoflop.py --sweepdir=sweeps/isoflop --processes=2
  python -m launch.scaling_law --points=sweeps/isoflop/results.csv --law=isoflop

4 budgets of 6 sizes each, 2.6e13 FLOPs in all. Sizes grow with the budget, so that each profile has
smaller and larger ones than its best. The learning rate is the same for all: a study that means its
exponents has to tune it for each size first.
"""

from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.experiment import (
    CheckpointConfig,
    EvaluationConfig,
    Experiment,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.models.transformer import TransformerConfig
from lm_jax.scaling.sweeps import Trial, grid, isoflop, ladder

WIDTHS = {  # by budget, in training FLOPs
    1e11: (16, 24, 32, 40, 48, 64),
    3e11: (24, 32, 40, 48, 64, 80),
    1e12: (32, 40, 48, 64, 80, 96),
    3e12: (40, 48, 64, 80, 96, 128),
}


def get_sweep() -> dict[str, Trial]:
    """Each budget with its sizes; a run's steps follow from its budget."""
    base = Experiment(
        data=DataConfig(
            source="stdlib",
            validation_fraction=0.02,
            tokenizer=TokenizerConfig(kind="byte"),
        ),
        schedule=ScheduleConfig(peak_learning_rate=3e-3),
        training=TrainingConfig(batch_size=8, steps_per_call=20, log_every_steps=20),
        evaluation=EvaluationConfig(every_steps=0, batch_size=64, baselines=False),
        checkpoint=CheckpointConfig(every_steps=2000, keep_last=1),
        samples=SamplesConfig(num_samples=1, max_new_tokens=64),
        tensorboard=False,
    )
    shape = TransformerConfig(context_length=128, positions="rotary")
    trials: dict[str, Trial] = {}
    for budget, widths in WIDTHS.items():
        models = ladder(shape, widths, aspect_ratio=32, head_width=8)
        trials |= isoflop(grid(base, {"model": models}), [budget], warmup_fraction=0.1)
    return trials
