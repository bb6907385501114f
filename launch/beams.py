"""How programs that write are told to search for texts."""

from typing import Any

from absl import flags

from lm_jax.generation.beam_search import EARLY_STOPPING, LENGTH_PENALTIES

LENGTH_PENALTY = flags.DEFINE_float(
    "length_penalty", 1.0, "Beam search: 0 ranks by log-probability; above, longer texts gain."
)
LENGTH_PENALTY_KIND = flags.DEFINE_enum(
    "length_penalty_kind",
    "power",
    list(LENGTH_PENALTIES),
    "What divides the log-probability of n tokens: n^penalty, or ((5 + n) / 6)^penalty.",
)
STOPPING = flags.DEFINE_enum(
    "early_stopping",
    "false",
    list(EARLY_STOPPING),
    "When num_beams texts have ended: stop if no other scores better now (false), stop (true), or "
    "go on while any might ever score better (never).",
)


def choices() -> dict[str, Any]:
    """What the flags say, as fields of `SamplesConfig`."""
    return {
        "length_penalty": LENGTH_PENALTY.value,
        "length_penalty_kind": LENGTH_PENALTY_KIND.value,
        "early_stopping": STOPPING.value,
    }
