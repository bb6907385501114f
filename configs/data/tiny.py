r"""Two tasks of the stages that take no time, for a first look and for tests.

  python -m launch.prepare_data --config=configs/data/tiny.py --output=corpora/docs \
      --config.path='docs/*.md'
"""

from lm_jax.data.preparation.config import PreparationConfig


def get_preparation() -> PreparationConfig:
    """Returns the preparation; give `path`."""
    return PreparationConfig(stages="gopher_quality, exact_duplicates, redaction", tasks=2)
