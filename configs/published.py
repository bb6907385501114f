r"""A published model by its name, to be measured or trained with any of its fields changed.

  python -m launch.benchmark --suite=train --config=configs/published.py:gpt2_small \
      --config.model.scan_layers=true --config.training.batch_size=16
  python -m launch.train --config=configs/published.py:gpt2_small --workdir=runs/gpt2 \
      --config.data.source=files --config.data.path='texts/*.txt' \
      --config.training.batch_size_tokens=524288 --config.training.gradient_accumulation_steps=16

The names are those of lm_jax/models/presets.py. 124M parameters and up: for accelerators; nothing
was trained with it yet.
"""

from lm_jax.benchmarking.default_experiments import published
from lm_jax.config.experiment import Experiment


def get_config(preset: str = "gpt2_small") -> Experiment:
    """The experiment of a preset, on data of its kind, with 8 rows a step."""
    return published(preset)
