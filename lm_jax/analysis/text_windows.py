"""Texts as tokens that know where they stand, and as windows that a model can read."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax import data
from lm_jax.build import BuiltExperiment
from lm_jax.data.token_offsets import token_offsets
from lm_jax.errors import UserError
from lm_jax.evaluation.token_scores import Scored
from lm_jax.models import family_of


class TokenizedText(NamedTuple):
    """A text with its tokens, the end of the document last."""

    text: str
    tokens: np.ndarray  # int32 [T + 1]
    offsets: np.ndarray  # int32 [T + 1, 2]: as `token_offsets`


def check_texts(texts: Sequence[str], name: str = "texts") -> list[str]:
    """Returns texts as a list.

    Raises:
      UserError: `texts` is one str, or holds something else than str.
    """
    if isinstance(texts, str):
        raise UserError(f"{name} is one str; expected a list of them: give [{name}]")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"{name}[{number}] is a {type(text).__name__}; expected a str")
    return found


def tokenized_texts(
    tokenizer: data.Tokenizer, texts: Sequence[str], *, with_offsets: bool = True
) -> list[TokenizedText]:
    """Returns each text with its tokens.

    Args:
      with_offsets: find where the tokens stand; otherwise all offsets are 0.

    Raises:
      UserError: a text cannot be encoded.
    """
    end = np.array([tokenizer.end_of_document], np.int32)
    found = []
    for text, tokens in zip(texts, tokenizer.encode_all(texts), strict=True):
        offsets = np.zeros((len(tokens) + 1, 2))
        if with_offsets:
            offsets = np.append(token_offsets(tokenizer, text, tokens), [[len(text)] * 2], axis=0)
        found.append(TokenizedText(text, np.concatenate([tokens, end]), offsets.astype(np.int32)))
    return found


def closes_texts(built: BuiltExperiment, tokenizer: data.Tokenizer) -> bool:
    """Returns whether the model reads the end of a text, as BERT reads [SEP].

    Models of masked tokens that are trained here read [end] text, and imported ones [CLS] text
    [SEP]: those have a token of their own that opens a text.
    """
    return built.objective.closes_texts and tokenizer.opening is not None


def context_of(built: BuiltExperiment, given: int, longest: int = 0) -> int:
    """Returns the number of tokens of a window: the given one or, if that is 0, the longest.

    Args:
      longest: tokens that the model reads at once; 0: its context.

    Raises:
      UserError: the model does not read windows of that length.
    """
    config = built.experiment.model
    longest = longest or config.context_length
    at_most = "" if family_of(config).any_length else f" to {longest:,}, which the model reads"
    if given < 0 or (at_most and given > longest):
        raise UserError(
            f"context_length is {given}; expected 1{at_most or ' or more'}, or 0 for {longest:,}"
        )
    return given or longest


def windows_of(stream: np.ndarray, context_length: int, stride: int) -> Iterator[Scored]:
    """Yields the windows of a stream of tokens, which score each but the first once, in order.

    They are those of `lm_jax.data.text.windows.packed_windows`: each holds up to `context_length`
    tokens and the one after them.

    Args:
      stream: int32 [N].
      stride: tokens between the starts of two windows; 0: `context_length`.

    Raises:
      UserError: the stride would leave tokens out.
    """
    stride = stride or context_length
    if not 0 < stride <= context_length:
        raise UserError(
            f"a stride of {stride} with a context of {context_length} would leave tokens out; "
            f"expected 1 to {context_length}, or 0 for disjoint windows"
        )
    start, scored = 0, 1
    while scored < len(stream):
        stop = min(start + context_length + 1, len(stream))
        yield Scored(stream[start:stop], scored - start)
        start, scored = start + stride, stop
