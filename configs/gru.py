"""A gated recurrent unit network of two layers (Cho et al. 2014).

  python -m launch.train --config=configs/gru.py:reference --workdir=runs/gru
  python -m launch.train --config=configs/gru.py:shakespeare --workdir=runs/gru \
      --config.data.path=tinyshakespeare.txt

Bits per character, and seconds on one CPU core: shakespeare 2.253 +- 0.004 (three seeds) in 178 s,
reference 2.065 +- 0.036 (over documents) in 137 s.
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
    """The experiment on `shakespeare` or on `reference`: see configs/corpora.py."""
    return on_corpus(corpus, SIZES, LEARNING_RATES)
