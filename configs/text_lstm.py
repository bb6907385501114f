"""An LSTM on labelled texts: embeddings of 128, 64 units.

  python -m launch.train --config=configs/text_lstm.py:reviews --workdir=runs/text_lstm \
      --config.data.path=reviews.tsv

Accuracy: reviews 0.739 +- 0.003, newsgroups 0.216 +- 0.005, genres 0.247 +- 0.006
(three seeds); 40 to 140 seconds on one CPU core.
"""

from configs.labelled_texts import on_texts
from lm_jax.config.experiment import Experiment
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig


def get_config(texts: str = "reviews") -> Experiment:
    """Returns the experiment on `reviews`, `newsgroups` or `genres` (labelled_texts.py)."""
    return on_texts(texts, RecurrentClassifierConfig(cell="lstm", dropout_rate=0.3))
