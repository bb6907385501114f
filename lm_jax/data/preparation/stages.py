"""The stages of a preparation, by name."""

from collections.abc import Callable

from lm_jax.data.preparation.decontamination import add_decontamination
from lm_jax.data.preparation.duplicates import add_exact_duplicates, add_near_duplicates
from lm_jax.data.preparation.gopher import add_gopher_quality, add_gopher_repetition
from lm_jax.data.preparation.japanese_quality import add_japanese_quality
from lm_jax.data.preparation.language import add_language
from lm_jax.data.preparation.perplexity import add_perplexity
from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.quality import (
    add_c4_quality,
    add_fineweb_quality,
)
from lm_jax.data.preparation.redaction import add_redaction
from lm_jax.data.preparation.repeated_lines import add_repeated_lines

# A stage adds its blocks and phases to a plan. One of your own is `my_stages.py:add_mine`.
AddStage = Callable[[Plan], None]
STAGES: dict[str, AddStage] = {
    "language": add_language,
    "gopher_repetition": add_gopher_repetition,
    "gopher_quality": add_gopher_quality,
    "c4_quality": add_c4_quality,
    "fineweb_quality": add_fineweb_quality,
    "japanese_quality": add_japanese_quality,
    "perplexity": add_perplexity,
    "exact_duplicates": add_exact_duplicates,
    "near_duplicates": add_near_duplicates,
    "repeated_lines": add_repeated_lines,
    "decontamination": add_decontamination,
    "redaction": add_redaction,
}
