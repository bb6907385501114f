r"""Loss by parameters and tokens, L(N, D): sizes of Transformers, each trained for many horizons.

  python -m launch.sweep --config=configs/sweeps/horizons.py --plan
  python -m launch.sweep --config=configs/sweeps/horizons.py --sweepdir=sweeps/horizons \
      --processes=2
  python -m launch.scaling_law --points=sweeps/horizons/results.csv --law=parametric

5 sizes by 5 horizons, each with its own decay over the last fifth. A longer run continues from the
step where the decay of the shorter one begins (Hagele et al. 2024), which takes 61% of the FLOPs of
separate runs. All sizes share one learning rate: tune it per size before you trust the exponents.
"""

from configs.sweeps._stdlib import on_stdlib
from lm_jax.config.experiment import Experiment, ScheduleConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.sweeps.search_space import grid, horizons, ladder

WIDTHS = (32, 48, 64, 96, 128)
TOKENS = (1e6, 2e6, 4e6, 8e6, 1.6e7)


def get_sweep() -> dict[str, Experiment]:
    """Returns every size for every horizon, on the bytes of Python's standard library."""
    base = on_stdlib()
    base.schedule = ScheduleConfig(name="wsd", peak_learning_rate=3e-3, final_fraction=0.0)
    shape = TransformerConfig(context_length=128, positions="rotary")
    models = ladder(shape, WIDTHS, aspect_ratio=32, head_width=16)
    return horizons(grid(base, {"model": models}), TOKENS)
