r"""IsoFLOP profiles of Transformers on the bytes of Python's standard library.

  python -m launch.sweep --config=configs/sweeps/isoflop.py --plan
  python -m launch.sweep --config=configs/sweeps/isoflop.py --sweepdir=sweeps/isoflop --processes=2
  python -m launch.scaling_law --points=sweeps/isoflop/results.csv --law=isoflop --budget=3e13
  python -m launch.sweep --config=configs/sweeps/isoflop.py:3e13,48 --sweepdir=sweeps/isoflop_check

4 budgets of 6 sizes each, 2.6e13 FLOPs in all. Sizes grow with the budget, so that each profile
has sizes below and above its best. The learning rate falls with the width. The last command trains
one width with one budget, to test a prediction of the profiles.
"""

import re

from configs.sweeps._stdlib import on_stdlib
from lm_jax.errors import UserError
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.sweeps.search_space import Trial, grid, isoflop, ladder

WIDTHS = {  # by budget, in training FLOPs
    1e11: (8, 16, 24, 32, 40, 48),
    3e11: (16, 24, 32, 40, 48, 64),
    1e12: (16, 24, 32, 40, 48, 64),
    3e12: (24, 32, 40, 48, 64, 80),
}
RATE_TIMES_WIDTH = 0.5  # at widths 16 and 32 the highest tried, 0.4 to 0.8, were best


def get_sweep(choice: str = "") -> dict[str, Trial]:
    """Returns each budget with its sizes; the steps of a run follow from its budget.

    Args:
      choice: a budget and a width, such as `3e13,48`, for that run alone.

    Raises:
      UserError: the choice is no such pair.
    """
    budget, comma, width = choice.partition(",")
    if choice and not (comma and width.isdecimal() and re.fullmatch(r"[\d.]+e\d+", budget)):
        raise UserError(f"the choice is {choice!r}; expected a budget and a width, as 3e13,48")
    profiles = {float(budget): (int(width),)} if choice else WIDTHS
    base = on_stdlib()
    shape = TransformerConfig(context_length=128, positions="rotary")
    trials: dict[str, Trial] = {}
    for flops, widths in profiles.items():
        models = ladder(shape, widths, aspect_ratio=16, head_width=8)
        sizes = grid(base, {"model": models})
        for size in sizes.values():
            size.schedule.peak_learning_rate = RATE_TIMES_WIDTH / size.model.d_model
        trials |= isoflop(sizes, [flops], warmup_fraction=0.1)
    return trials
