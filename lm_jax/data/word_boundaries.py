"""Where words begin in tokenized texts, for masking whole words."""

from typing import NamedTuple

import numpy as np

from lm_jax.data.sentencepiece_model import SPACE_MARK
from lm_jax.data.tokenizers import Tokenizer


class WordBoundaries(NamedTuple):
    """Which tokens begin a word, and which have a word begin after them; both bool [V]."""

    opens: np.ndarray
    closes: np.ndarray

    def starts(self, tokens: np.ndarray) -> np.ndarray:
        """Returns where words begin in a text [T]: at white space, at signs and after signs."""
        after = np.concatenate([[True], self.closes[tokens[:-1]]])
        return self.opens[tokens] | after


def word_boundaries(tokenizer: Tokenizer) -> WordBoundaries:
    """Returns where the words of a tokenizer's texts begin; a space belongs to the word after it.

    Every token of a vocabulary of words is a word.
    """
    if tokenizer.tokens_are_words:
        return WordBoundaries(*np.ones((2, tokenizer.vocab_size), bool))
    outer = [tokenizer.codec.outer_characters(index) for index in range(tokenizer.vocab_size)]
    closes = [not last.isalnum() and last not in f" {SPACE_MARK}" for _, last in outer]
    return WordBoundaries(np.array([not first.isalnum() for first, _ in outer]), np.array(closes))
