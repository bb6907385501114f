"""A small Transformer on CPython's language reference, the corpus that every Python carries."""

from lm_jax.experiment import Experiment


def get_config() -> Experiment:
    """The experiment of `make demo`."""
    config = Experiment()
    return config
