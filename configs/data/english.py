r"""English text: the rules of Gopher, C4 and FineWeb, duplicates, redaction.

  python -m launch.prepare_data --config=configs/data/english.py --output=corpora/english \
      --config.path='texts/*.jsonl' --workers=2
"""

from lm_jax.data.preparation.config import PreparationConfig


def get_preparation() -> PreparationConfig:
    """Returns the preparation; give `path`."""
    return PreparationConfig(
        language="en",
        stages=(
            "gopher_repetition, gopher_quality, c4_quality, fineweb_quality, "
            "exact_duplicates, near_duplicates, redaction"
        ),
    )
