"""The name, unit and digits of each measure of an evaluation, alike on pages and in terminals."""

from collections.abc import Mapping
from typing import Any

from lm_jax.nested import flatten
from lm_jax.reports.numbers import decimals_of, text_of, with_error

_LABELS = {
    "bits_per_character": "bits per character",
    "cross_entropy": "cross-entropy",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "bits_per_word": "bits per word",
    "word_perplexity": "perplexity per word",
    "accuracy": "accuracy",
    "accuracy_of_majority_class": "accuracy of always naming the most frequent class of training",
    "tokens": "tokens predicted",
    "pairs": "pairs predicted",
    "examples": "examples classified",
    "characters": "characters",
    "bytes": "bytes",
    "words": "words between spaces",
    "documents": "documents",
}
_SHARES = ("accuracy", "accuracy_of_majority_class")  # shown in percent
PREDICTED = {"tokens": "token", "pairs": "pair", "examples": "example"}
PARTS = {"sources": "source", "tasks": "task"}
"""Keys of measures under which those of each part stand, and what a part is."""
_OF_PARTS = ("documents", "tokens", "cross_entropy", "perplexity", "bits_per_character", "accuracy")
_DIGITS = 4  # of a measure whose error is not known


def predicted_in(figures: Mapping[str, Any]) -> str:
    """Returns what an evaluation counts: tokens, pairs or examples; "" where it does not say."""
    return next((name for name in PREDICTED if name in figures), "")


def nats_per(predicted: str) -> str:
    """Returns the unit of the cross-entropy, such as nats per token."""
    return f"nats per {PREDICTED[predicted]}" if predicted else "nats"


def label_of(name: str, predicted: str) -> str:
    """Returns the name of a measure with its unit.

    Args:
      name: a key of `evaluation.json`, or of the baselines of an objective.
      predicted: what `predicted_in` returns.
    """
    unit = {"cross_entropy": f", {nats_per(predicted)}"} | dict.fromkeys(_SHARES, ", %")
    return _LABELS.get(name, name.replace("_", " ")) + unit.get(name, "")


def label_of_difference(name: str, predicted: str) -> str:
    """Returns the name of a difference of two values with its unit: shares differ by points."""
    if name in _SHARES:
        return f"{_LABELS[name]}, percentage points"
    return label_of(name, predicted)


def in_unit(name: str, value: float) -> float:
    """Returns a value in the unit of its label: shares are shown in percent."""
    return 100 * value if name in _SHARES else value


def measure(name: str, value: float, error: float | None = None) -> str:
    """Returns a value in its unit, with its standard error where it is known."""
    shown = in_unit(name, value)
    if error:
        return with_error(shown, in_unit(name, error))
    if name in _SHARES:
        return f"{shown:.1f}"
    return text_of(shown, _DIGITS)


def card_of(name: str, figures: Mapping[str, Any]) -> tuple[str, str]:
    """Returns a value with the digits that its error allows, and its name, as a card."""
    value, error = figures[name], figures.get(f"{name}_standard_error")
    shown = in_unit(name, value)
    text = f"{shown:,.{decimals_of(in_unit(name, error))}f}" if error else measure(name, value)
    if name in _SHARES:
        return f"{text}%", _LABELS[name]
    return text, label_of(name, predicted_in(figures))


def measures_of(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the figures of an evaluation by label, as text with standard errors."""
    predicted = predicted_in(figures)
    return [
        (label_of(name, predicted), measure(name, value, figures.get(f"{name}_standard_error")))
        for name in _LABELS
        if (value := figures.get(name)) is not None
    ]


def table_of_parts(
    parts: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Returns the main figures of each part of a split: labels, and a row of cells for each."""
    first = next(iter(parts.values()))
    names = [name for name in _OF_PARTS if first.get(name) is not None]
    rows = [[part, *(_cell(figures, name) for name in names)] for part, figures in parts.items()]
    return [label_of(name, predicted_in(first)) for name in names], rows


def _cell(figures: Mapping[str, Any], name: str) -> str:
    value, error = figures.get(name), figures.get(f"{name}_standard_error")
    return "" if value is None else measure(name, value, error)


def further_measures_of(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what only some objectives measure, such as auxiliary losses, by dotted name."""
    others = {
        name: value
        for name, value in figures.items()
        if name not in (*_LABELS, *PARTS, "nats") and not name.endswith("_standard_error")
    }
    return [(name, text_of(value)) for name, value in flatten(others).items() if value is not None]
