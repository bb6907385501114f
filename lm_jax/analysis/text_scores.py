"""What each token of a text costs a language model."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from lm_jax.analysis.text_windows import tokenized_texts, windows_of
from lm_jax.evaluation.token_scores import Scorer, score_sequences

_SHOWN = 40  # characters of a text in one line


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TextScores:
    """The log-probability of each token of a text, given those before it.

    The last of the T + 1 tokens is the end of the document: `launch.evaluate` counts it, too.
    """

    text: str
    tokens: np.ndarray  # int32 [T + 1]
    offsets: np.ndarray
    """First character of each token and the one after its last, int32 [T + 1, 2].

    Tokens that share a character, such as the bytes of an emoji, each span all of it."""

    log_probabilities: np.ndarray  # nats, float32 [T + 1]

    @property
    def pieces(self) -> list[str]:
        """The part of the text that each token spans; the end of the document spans nothing."""
        return [self.text[first:last] for first, last in self.offsets.tolist()]

    @property
    def total(self) -> float:
        """The log-probability of the text and its end, in nats."""
        return float(self.log_probabilities.sum(dtype=np.float64))

    @property
    def perplexity(self) -> float:
        """exp of the mean nats per token, the end included."""
        return math.exp(-self.total / len(self.tokens))

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        return f"<TextScores of {text!r}: {len(self.tokens)} tokens, {self.total:.2f} nats>"


def score_texts(
    scorer: Scorer, texts: Sequence[str], *, context_length: int, stride: int
) -> list[TextScores]:
    """Returns the scores of each text as a document of its own.

    Args:
      context_length: tokens of a window.
      stride: as for `windows_of`; each token is scored in one window.

    Raises:
      UserError: a text cannot be encoded, or the stride would leave tokens out.
    """
    tokenized = tokenized_texts(scorer.tokenizer, texts)
    streams = (np.concatenate([text.tokens[-1:], text.tokens]) for text in tokenized)
    windows = [list(windows_of(stream, context_length, stride)) for stream in streams]
    scores = iter(score_sequences(scorer, list(itertools.chain.from_iterable(windows))))
    return [
        TextScores(*text, -np.concatenate([next(scores).nats for _ in cut]))
        for text, cut in zip(tokenized, windows, strict=True)
    ]
