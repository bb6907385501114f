r"""Japanese text: the rules of the Swallow corpus in characters, duplicates, redaction.

  python -m launch.prepare_data --config=configs/data/japanese.py --output=corpora/japanese \
      --config.path='texts/*.jsonl' --workers=2
"""

from lm_jax.data.preparation.config import PreparationConfig


def get_preparation() -> PreparationConfig:
    """Returns the preparation; give `path`."""
    return PreparationConfig(
        language="ja",
        stages=(
            "language, japanese_quality, exact_duplicates, near_duplicates, repeated_lines, "
            "redaction"
        ),
    )
