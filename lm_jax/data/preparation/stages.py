"""The stages of a preparation, by name."""

from collections.abc import Callable

from lm_jax.data.preparation.duplicates import add_exact_duplicates, add_near_duplicates
from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.quality import (
    add_c4_quality,
    add_fineweb_quality,
    add_gopher_quality,
    add_gopher_repetition,
)
from lm_jax.data.preparation.redaction import add_redaction

# A stage adds its blocks and phases to a plan. One of your own is `my_stages.py:add_mine`.
STAGES: dict[str, Callable[[Plan], None]] = {
    "gopher_repetition": add_gopher_repetition,
    "gopher_quality": add_gopher_quality,
    "c4_quality": add_c4_quality,
    "fineweb_quality": add_fineweb_quality,
    "exact_duplicates": add_exact_duplicates,
    "near_duplicates": add_near_duplicates,
    "redaction": add_redaction,
}
