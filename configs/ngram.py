"""An n-gram model with interpolated modified Kneser-Ney smoothing (Chen & Goodman 1998).

  python -m launch.train --config=configs/ngram.py:reference --workdir=runs/ngram
  python -m launch.train --config=configs/ngram.py:shakespeare --workdir=runs/ngram \
      --config.data.path=tinyshakespeare.txt

Bits per character: shakespeare 2.256 (5 s on one CPU core), and 2.193 (12 s) with
--config.model.order=7; reference 1.947 +- 0.042 (over documents, 2 s).
"""

from configs.corpora import on_corpus
from lm_jax.config.experiment import Experiment
from lm_jax.models.ngram.model import NgramConfig

SIZES = {
    "shakespeare": NgramConfig(context_length=64, order=5),
    "reference": NgramConfig(context_length=256, order=5),
}
LEARNING_RATES = {"shakespeare": 0.0, "reference": 0.0}  # counts need no learning rate


def get_config(corpus: str = "shakespeare") -> Experiment:
    """Returns the experiment on `shakespeare` or `reference` (configs/corpora.py)."""
    return on_corpus(corpus, SIZES, LEARNING_RATES)
