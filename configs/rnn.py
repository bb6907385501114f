"""A simple (Elman) recurrent network of two layers.

  python -m launch.train --config=configs/rnn.py:reference --workdir=runs/rnn
  python -m launch.train --config=configs/rnn.py:shakespeare --workdir=runs/rnn \
      --config.data.path=tinyshakespeare.txt

Bits per character: shakespeare 2.285 +- 0.002 (three seeds, 139 s on one CPU core),
reference 1.985 +- 0.043 (over documents, 175 s).
"""

from configs.corpora import on_corpus
from lm_jax.config.experiment import Experiment
from lm_jax.models.recurrent.language_model import RecurrentConfig

SIZES = {
    "shakespeare": RecurrentConfig(cell="rnn", d_hidden=383),
    "reference": RecurrentConfig(cell="rnn", d_hidden=389),
}
LEARNING_RATES = {"shakespeare": 2e-3, "reference": 2e-3}


def get_config(corpus: str = "shakespeare") -> Experiment:
    """Returns the experiment on `shakespeare` or `reference` (configs/corpora.py)."""
    return on_corpus(corpus, SIZES, LEARNING_RATES)
