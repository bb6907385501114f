"""A small mixture of experts beside a dense Transformer, on CPython's language reference.

  python -m launch.train --config=configs/experts.py --workdir=runs/experts
  python -m launch.train --config=configs/experts.py:dense --workdir=runs/dense

Both have as many FLOPs per token. Bits per character of three seeds: 2.419 +- 0.008 and
2.602 +- 0.013 (docs/results/mixture_of_experts.md).
"""

import dataclasses

from configs import quickstart
from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError

_WIDTHS = {
    "experts": {"num_experts": 8, "d_expert": 128},
    "dense": {"d_ff": 256},
}


def get_config(model: str = "experts") -> Experiment:
    """Returns the experiment of `experts`, eight of which a token passes two, or of `dense`."""
    if model not in _WIDTHS:
        known = " or ".join(f"--config=FILE:{name}" for name in _WIDTHS)
        raise UserError(f"there is no model {model!r}; expected {known}")
    experiment = quickstart.get_config()
    experiment.model = dataclasses.replace(
        experiment.model,
        d_model=64,
        num_layers=2,
        num_heads=2,
        context_length=128,
        **_WIDTHS[model],
    )
    experiment.data.tokenizer.vocab_size = 512
    experiment.training.batch_size, experiment.training.steps_per_call = 16, 50
    experiment.evaluation.every_steps = 300
    return experiment
