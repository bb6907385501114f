r"""English text: the rules of Gopher, C4 and FineWeb, duplicates, redaction.

  python -m launch.prepare_data --config=configs/data/english.py --output=corpora/english \
      --config.path='texts/*.jsonl' --workers=2
"""

from lm_jax.data.preparation.config import FineWebQualityConfig, PreparationConfig


def get_preparation() -> PreparationConfig:
    """Returns the preparation; give `path`."""
    return PreparationConfig(
        language="en",
        # The rules that take least time come first: repetition takes more than all others.
        stages=(
            "language, gopher_quality, c4_quality, fineweb_quality, gopher_repetition, "
            "exact_duplicates, near_duplicates, repeated_lines, redaction"
        ),
        # FineWeb has 0.01, which drops short pages whose navigation repeats their title.
        fineweb_quality=FineWebQualityConfig(repeated_characters=0.05),
    )
