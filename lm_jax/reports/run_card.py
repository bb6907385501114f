"""A run in a notebook: what it is and what it reached, in a few lines of HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lm_jax.reports.html import render
from lm_jax.reports.measures import card_of

_SHOWN = ("bits_per_character", "cross_entropy", "perplexity", "accuracy")


def run_card(
    title: str,
    facts: Sequence[tuple[str, str]],
    validation: Mapping[str, Any],
    report: str | None = None,
) -> Markup:
    """Returns the card of a run.

    Args:
      facts: names and values, such as the number of parameters.
      validation: the figures of its validation split; {} if it has not ended.
      report: the path of its page; None if there is none.
    """
    cards = [card_of(name, validation) for name in _SHOWN if validation.get(name) is not None]
    return render("run_card.html", title=title, facts=facts, cards=cards, report=report)
