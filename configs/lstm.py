"""A long short-term memory of two layers (Hochreiter & Schmidhuber 1997).

  python -m launch.train --config=configs/lstm.py:reference --workdir=runs/lstm
  python -m launch.train --config=configs/lstm.py:shakespeare --workdir=runs/lstm \
      --config.data.path=tinyshakespeare.txt

Bits per character: shakespeare 2.377 +- 0.005 (three seeds, 166 s on one CPU core),
reference 2.218 +- 0.033 (over documents, 342 s).
"""

from configs.corpora import on_corpus
from lm_jax.config.experiment import Experiment
from lm_jax.models.recurrent.language_model import RecurrentConfig

SIZES = {
    "shakespeare": RecurrentConfig(cell="lstm", d_hidden=209),
    "reference": RecurrentConfig(cell="lstm", d_hidden=264),
}
LEARNING_RATES = {"shakespeare": 1e-2, "reference": 1e-2}


def get_config(corpus: str = "shakespeare") -> Experiment:
    """Returns the experiment on `shakespeare` or `reference` (configs/corpora.py)."""
    return on_corpus(corpus, SIZES, LEARNING_RATES)
