"""Multinomial naive Bayes: a unigram model of each class, from counts.

  python -m launch.train --config=configs/text_naive_bayes.py:reviews --workdir=runs/naive_bayes \
      --config.data.path=reviews.tsv

Accuracy: reviews 0.789 +- 0.013, newsgroups 0.808 +- 0.005, genres 0.491 +- 0.007 (standard errors
over texts); 2 to 6 seconds on one CPU core.
"""

from configs.labelled_texts import on_texts
from lm_jax.config.experiment import Experiment
from lm_jax.models.naive_bayes import NaiveBayesConfig


def get_config(texts: str = "reviews") -> Experiment:
    """Returns the experiment on `reviews`, `newsgroups` or `genres` (labelled_texts.py)."""
    return on_texts(texts, NaiveBayesConfig())
