"""What each token of a text costs a language model."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from lm_jax.analysis.text_windows import tokenized_texts, windows_of
from lm_jax.evaluation.token_scores import Scorer, score_sequences
from lm_jax.plurals import counted
from lm_jax.reports.html import render

_DARKEST = 10  # nats
_NOTHING = "\u2591"  # stands for a token without characters, such as the end of the document
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
        return (
            f"<TextScores of {text!r}: {counted(len(self.tokens), 'token')}, {self.total:.2f} nats>"
        )

    def _repr_html_(self) -> str:
        """Returns the text coloured by what its tokens cost, for a notebook."""
        parts: list[tuple[int, int, list[float]]] = []
        for (first, last), nats in zip(self.offsets.tolist(), -self.log_probabilities, strict=True):
            if parts and first < parts[-1][1]:  # tokens that share a character are one part
                first, last, costs = parts[-1][0], max(last, parts[-1][1]), parts.pop()[2]
                parts.append((first, last, [*costs, float(nats)]))
            else:
                parts.append((max(first, parts[-1][1]) if parts else 0, last, [float(nats)]))
        shown = [
            {
                "text": self.text[first:last] or _NOTHING,
                "title": f"{' + '.join(f'{nats:.2f}' for nats in costs)} nats",
                "percent": round(100 * min(sum(costs) / _DARKEST, 1)),
            }
            for first, last, costs in parts
        ]
        summary = (
            f"{counted(len(self.tokens), 'token')} with the end of the document, {-self.total:.2f} "
            f"nats, perplexity {self.perplexity:.2f}; the darkest cost {_DARKEST} nats or more"
        )
        return str(render("text_scores.html", parts=shown, summary=summary))


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
    nats = _nats(scorer, [text.tokens for text in tokenized], context_length, stride)
    return [TextScores(*text, -each) for text, each in zip(tokenized, nats, strict=True)]


def mean_nats(scorer: Scorer, texts: Sequence[str], *, context_length: int, stride: int) -> float:
    """Returns the mean nats per token of all texts together, the ends of documents included.

    Args:
      context_length: as for `score_texts`.
      stride: as there.

    Raises:
      UserError: as there.
    """
    end = np.array([scorer.tokenizer.end_of_document], np.int32)
    tokens = [np.concatenate([ids, end]) for ids in scorer.tokenizer.encode_all(texts)]
    nats = np.concatenate(_nats(scorer, tokens, context_length, stride))
    return float(nats.mean(dtype=np.float64))


def _nats(
    scorer: Scorer, documents: Sequence[np.ndarray], context_length: int, stride: int
) -> list[np.ndarray]:
    """Returns the nats of each token of each document, whose last token is its end."""
    opening = np.array([scorer.tokenizer.beginning], np.int32)
    streams = (np.concatenate([opening, tokens]) for tokens in documents)
    windows = [list(windows_of(stream, context_length, stride)) for stream in streams]
    scores = iter(score_sequences(scorer, list(itertools.chain.from_iterable(windows))))
    return [np.concatenate([next(scores).nats for _ in cut]) for cut in windows]
