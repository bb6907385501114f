"""The neural probabilistic language model of Bengio et al. (2003): the last 8 embeddings.

  python -m launch.train --config=configs/mlp.py:reference --workdir=runs/mlp
  python -m launch.train --config=configs/mlp.py:shakespeare --workdir=runs/mlp \
      --config.data.path=tinyshakespeare.txt

Bits per character: shakespeare 2.390 +- 0.001 (three seeds, 131 s on one CPU core),
reference 2.361 +- 0.047 (over documents, 165 s).
"""

from configs.corpora import on_corpus
from lm_jax.config.experiment import Experiment
from lm_jax.models.mlp import MLPConfig

SIZES = {
    "shakespeare": MLPConfig(d_hidden=970),
    "reference": MLPConfig(context_length=256, d_hidden=795),
}
LEARNING_RATES = {"shakespeare": 5e-3, "reference": 2e-3}


def get_config(corpus: str = "shakespeare") -> Experiment:
    """Returns the experiment on `shakespeare` or `reference` (configs/corpora.py)."""
    return on_corpus(corpus, SIZES, LEARNING_RATES)
