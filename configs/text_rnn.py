"""A simple recurrent network on labelled texts: embeddings of 128, 64 units.

  python -m launch.train --config=configs/text_rnn.py:reviews --workdir=runs/text_rnn \
      --config.data.path=reviews.tsv

Accuracy: reviews 0.673 +- 0.005, newsgroups 0.111 +- 0.001, genres 0.207 +- 0.002
(three seeds); 20 to 60 seconds on one CPU core.
"""

from configs.labelled_texts import on_texts
from lm_jax.config.experiment import Experiment
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig


def get_config(texts: str = "reviews") -> Experiment:
    """Returns the experiment on `reviews`, `newsgroups` or `genres` (labelled_texts.py)."""
    return on_texts(texts, RecurrentClassifierConfig(cell="rnn", dropout_rate=0.3))
