"""A causal convolutional language model with dilated, gated layers (WaveNet, ByteNet).

  python -m launch.train --config=configs/causal_cnn.py:reference --workdir=runs/causal_cnn
  python -m launch.train --config=configs/causal_cnn.py:shakespeare --workdir=runs/causal_cnn \
      --config.data.path=tinyshakespeare.txt

Bits per character: shakespeare 2.326 +- 0.007 (three seeds, 141 s on one CPU core),
reference 2.035 +- 0.046 (over documents, 169 s).
"""

from configs.corpora import on_corpus
from lm_jax.config.experiment import Experiment
from lm_jax.models.causal_cnn import CausalCNNConfig

SIZES = {
    "shakespeare": CausalCNNConfig(d_model=160),
    "reference": CausalCNNConfig(context_length=256, d_model=236),
}
LEARNING_RATES = {"shakespeare": 2e-3, "reference": 2e-3}


def get_config(corpus: str = "shakespeare") -> Experiment:
    """Returns the experiment on `shakespeare` or `reference` (configs/corpora.py)."""
    return on_corpus(corpus, SIZES, LEARNING_RATES)
