"""A bidirectional LSTM on labelled texts: embeddings of 128, 64 units per direction.

  python -m launch.train --config=configs/text_bilstm.py:reviews --workdir=runs/text_bilstm \
      --config.data.path=reviews.tsv

Accuracy: reviews 0.736 +- 0.004, newsgroups 0.533 +- 0.008, genres 0.279 +- 0.002
(three seeds); 50 to 200 seconds on one CPU core.
"""

from configs.labelled_texts import on_texts
from lm_jax.config.experiment import Experiment
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig


def get_config(texts: str = "reviews") -> Experiment:
    """Returns the experiment on `reviews`, `newsgroups` or `genres` (labelled_texts.py)."""
    return on_texts(
        texts, RecurrentClassifierConfig(cell="lstm", bidirectional=True, dropout_rate=0.3)
    )
