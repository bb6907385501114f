"""What a page says of word vectors: scores on judgements and analogies, from word_vectors.json."""

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lm_jax.evaluation.word_vectors import correlation_standard_error
from lm_jax.reports.html import render
from lm_jax.reports.measures import card_of, measure
from lm_jax.reports.numbers import decimals_of, with_error

_CORRELATION = "Spearman's correlation with human judgements"


def word_vectors_section(scores: Mapping[str, Any]) -> Markup:
    """Returns a table of what `launch.word_vectors` measured, or how to measure it."""
    rows = [
        (name, _CORRELATION, with_error(r, _error(found)), f"{found['pairs']:,} of {found['of']:,}")
        for name, found in scores.get("similarities", {}).items()
        for r in [found["spearman"]]
    ]
    rows += [
        (name, "analogies answered, %", _percent(found), f"{found['asked']:,} of {found['of']:,}")
        for name, found in scores.get("analogies", {}).items()
    ]
    return render("word_vectors.html", rows=rows, step=scores.get("step"))


def word_vectors_cards(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the scores with the digits that their errors allow, and what they are."""
    cards = [
        (f"{found['spearman']:.{decimals_of(error)}f}", f"correlation with {name}")
        for name, found in scores.get("similarities", {}).items()
        if (error := _error(found))
    ]
    for name, found in scores.get("analogies", {}).items():
        if found["asked"]:
            text, _ = card_of("accuracy", _shares(found))
            cards.append((text, f"analogies of {name}"))
    return cards


def _error(found: Mapping[str, Any]) -> float | None:
    return correlation_standard_error(found["spearman"], found["pairs"])


def _shares(found: Mapping[str, Any]) -> dict[str, float]:
    share = found["right"] / found["asked"]
    error = math.sqrt(share * (1 - share) / found["asked"])
    return {"accuracy": share, "accuracy_standard_error": error}


def _percent(found: Mapping[str, Any]) -> str:
    return measure("accuracy", *_shares(found).values()) if found["asked"] else ""
