"""Metrics derived from exact sums: cross-entropy, perplexity, bits, with standard errors."""

import math
from typing import Any

import numpy as np

from lm_jax.evaluation.loss_sums import DocumentSums

# Mean characters between white space, with the white space: English has 6, Finnish 9, indented code
# about 10, Japanese more than 20.
_LONGEST_WORDS = 15


def prediction_measures(sums: DocumentSums, unit: str) -> dict[str, Any]:
    """Returns cross-entropy in nats, perplexity, accuracy and the number of targets.

    Standard errors are for the ratio of two sums over documents (or examples); None for one.

    Args:
      unit: name of the targets, such as `tokens`.
    """
    nats, targets = float(sums.nats.sum()), float(sums.tokens.sum())
    return {
        "cross_entropy": nats / targets,
        "cross_entropy_standard_error": _ratio_standard_error(sums.nats, sums.tokens),
        "perplexity": _exp(nats / targets),
        "accuracy": float(sums.correct.sum()) / targets,
        "accuracy_standard_error": _ratio_standard_error(sums.correct, sums.tokens),
        "nats": nats,
        unit: int(targets),
        **({"auxiliary": dict(sums.named)} if sums.named else {}),
    }


def text_measures(
    sums: DocumentSums,
    characters: np.ndarray,
    bytes_: np.ndarray,
    words: np.ndarray,
    lossless: bool = True,
) -> dict[str, Any]:
    """Returns `prediction_measures` of a text, and bits per character, byte and word.

    Bits are divided by counts of the raw text (Unicode code points, UTF-8 bytes, words between
    white space), so that models with different tokenizers can be compared. They include the ends of
    documents, and are None if the tokenizer loses text. Figures per word are also None where no
    white space separates the words, as in Japanese.

    Args:
      characters, bytes_, words: counts for each document, [D].
      lossless: whether the tokenizer restores the text exactly.
    """
    bits = sums.nats / math.log(2)

    def per(denominator: np.ndarray) -> float | None:
        if not lossless or not denominator.sum():
            return None
        return float(bits.sum() / denominator.sum())

    spaced = characters.sum() <= _LONGEST_WORDS * words.sum()
    bits_per_word = per(words) if spaced else None
    return prediction_measures(sums, "tokens") | {
        "bits_per_character": per(characters),
        "bits_per_character_standard_error": _ratio_standard_error(bits, characters)
        if lossless
        else None,
        "bits_per_byte": per(bytes_),
        "bits_per_word": bits_per_word,
        "word_perplexity": None if bits_per_word is None else _exp(bits_per_word * math.log(2)),
        "characters": int(characters.sum()),
        "bytes": int(bytes_.sum()),
        "words": int(words.sum()),
        "documents": len(sums.nats),
    }


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _ratio_standard_error(numerators: np.ndarray, denominators: np.ndarray) -> float | None:
    """Returns the standard error of sum(numerators) / sum(denominators) over n sampled pairs.

    Cochran, Sampling Techniques (1977), eq. 6.13, for an infinite population.
    """
    n, total = len(numerators), denominators.sum()
    if n < 2 or not total:
        return None
    residuals = numerators - numerators.sum() / total * denominators
    return float(math.sqrt(n / (n - 1) * np.sum(residuals**2)) / total)
