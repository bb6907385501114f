"""A gated recurrent unit network of two layers (Cho et al. 2014).

  python -m launch.train --config=configs/gru.py:reference --workdir=runs/gru
  python -m launch.train --config=configs/gru.py:shakespeare --workdir=runs/gru \
      --config.data.path=tinyshakespeare.txt

Bits per character: shakespeare 2.254 +- 0.005 (three seeds, 178 s on one CPU core),
reference 2.065 +- 0.036 (over documents, 137 s).
"""

from configs.corpora import on_corpus
from lm_jax.config.experiment import Experiment
from lm_jax.models.recurrent.language_model import RecurrentConfig

SIZES = {
    "shakespeare": RecurrentConfig(cell="gru", d_hidden=238),
    "reference": RecurrentConfig(cell="gru", d_hidden=290),
}
LEARNING_RATES = {"shakespeare": 3e-3, "reference": 3e-3}


def get_config(corpus: str = "shakespeare") -> Experiment:
    """Returns the experiment on `shakespeare` or `reference` (configs/corpora.py)."""
    return on_corpus(corpus, SIZES, LEARNING_RATES)
