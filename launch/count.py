"""Counts the parameters of a model by component; nothing is allocated, however large it is.

  python -m launch.count --model=gpt2_small
  python -m launch.count --config=configs/quickstart.py --config.model.d_model=384

The last line of the output is JSON with the counts.
"""

from typing import Any

from absl import flags
from ml_collections import config_flags

from launch import program
from lm_jax import data, programs
from lm_jax.models.presets import PRESETS, preset
from lm_jax.scaling.accounting import count_parameters

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.")
MODEL = flags.DEFINE_string("model", None, f"A published model: {', '.join(PRESETS)}.")


def main() -> dict[str, Any]:
    """Prints a table of components, then returns the counts."""
    if (MODEL.value is None) == (CONFIG.value is None):
        raise ValueError("give either --model=NAME or --config=FILE")
    if MODEL.value:
        config = preset(MODEL.value)
    else:
        experiment = program.experiment_of(CONFIG)
        config = experiment.model
        sizes = program.sizes_of(experiment)
        if isinstance(experiment.data, data.DataConfig):
            program.say(f"with a vocabulary of at most {sizes['vocab_size']:,}")
        programs.fill_in(config, sizes)
    counts = count_parameters(config)
    total = counts["total"]
    width = max(map(len, counts))
    for name, count in counts.items():
        program.say(f"{name:{width}}{count:>20,}{count / total:>9.2%}")
    shares = {name: count / total for name, count in counts.items() if name != "total"}
    return {"parameters": counts, "shares": shares}


if __name__ == "__main__":
    program.run(main)
