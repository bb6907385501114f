r"""The best learning rate by width, for Transformers on CPython's language reference.

  python -m launch.sweep --config=configs/sweeps/learning_rates.py --plan
  python -m launch.sweep --config=configs/sweeps/learning_rates.py --sweepdir=sweeps/rates \
      --processes=2

15 runs of up to 0.46M parameters, 8.9e12 FLOPs in all: minutes on 2 CPU cores.
"""

from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.sweeps.search_space import grid

WIDTHS = (32, 64, 128)
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


def get_sweep() -> dict[str, Experiment]:
    """Returns every width with every learning rate, 200 steps of 2,048 tokens each."""
    base = Experiment(
        model=TransformerConfig(context_length=128, num_layers=2, positions="rotary"),
        data=DataConfig(tokenizer=TokenizerConfig(kind="bpe", vocab_size=512)),
        schedule=ScheduleConfig(warmup_steps=20),
        training=TrainingConfig(num_steps=200, batch_size=16),
        evaluation=EvaluationConfig(every_steps=100, baselines=False),
        samples=SamplesConfig(num_samples=1, max_new_tokens=64),
        tensorboard=False,
    )
    return grid(base, {"model.d_model": WIDTHS, "schedule.peak_learning_rate": LEARNING_RATES})
