r"""A published model by name, to be measured or trained with any field changed.

  python -m launch.benchmark --suite=train --config=configs/published.py:gpt2_small \
      --config.model.scan_layers=true --config.training.batch_size=16
  python -m launch.train --config=configs/published.py:gpt2_small --workdir=runs/gpt2 \
      --config.data.source=files --config.data.path='texts/*.txt' \
      --config.training.batch_size_tokens=524288 --config.training.gradient_accumulation_steps=16

lm_jax/config/presets.py has the names. The models are meant for accelerators; none was trained
here yet.
"""

from lm_jax.benchmarking.default_experiments import published
from lm_jax.config.experiment import Experiment


def get_config(preset: str = "gpt2_small") -> Experiment:
    """Returns the experiment of a preset, on data of its kind, with 8 rows per step."""
    return published(preset)
