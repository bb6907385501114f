"""A decoder-only Transformer of four layers, at the budget of the other architectures.

  python -m launch.train --config=configs/transformer.py:reference --workdir=runs/transformer
  python -m launch.train --config=configs/transformer.py:shakespeare --workdir=runs/transformer \
      --config.data.path=tinyshakespeare.txt

Bits per character: shakespeare 2.489 +- 0.015 (three seeds, 218 s on one CPU core),
reference 1.960 +- 0.043 (over documents, 267 s).
"""

from configs.corpora import on_corpus
from lm_jax.config.experiment import Experiment
from lm_jax.models.transformer.config import TransformerConfig

SIZES = {
    "shakespeare": TransformerConfig(context_length=64, num_layers=4, d_model=128, num_heads=4),
    "reference": TransformerConfig(
        context_length=256, num_layers=4, d_model=192, num_heads=6, positions="rotary"
    ),
}
LEARNING_RATES = {"shakespeare": 5e-3, "reference": 5e-3}


def get_config(corpus: str = "shakespeare") -> Experiment:
    """Returns the experiment on `shakespeare` or `reference` (configs/corpora.py)."""
    return on_corpus(corpus, SIZES, LEARNING_RATES)
