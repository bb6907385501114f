"""Tokenizers side by side on the same texts: their tokens, and what they leave to a model."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.data import DataConfig, Tokenizer, TokenizerConfig, prepare, texts_of, tokenize
from lm_jax.data.text.corpus import training_sample
from lm_jax.data.tokenizer_config import tokenizer_of
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.evaluation.baselines import ngram_nats
from lm_jax.models.ngram.model import NgramConfig

_ORDER = 3
_WINDOW = 512  # tokens


class Figures(NamedTuple):
    """A tokenizer on held-out documents."""

    name: str
    vocab_size: int
    characters_per_token: float
    bytes_per_token: float
    partial_share: float  # of the tokens: those that hold part of a character
    never_used: int  # ids that neither training nor held-out documents use
    lossless: bool
    megabytes_per_second: float  # of the training documents encoded
    bits_per_character: float | None  # of a Kneser-Ney 3-gram of tokens; None if it loses text


def compare_tokenizers(path: str, tokenizers: Sequence[str]) -> Iterator[Figures]:
    """Yields the figures of each tokenizer, trained as a run on these texts would train it.

    Args:
      path: the texts, as `data.path`; a hash of each document decides what is held out.

    Raises:
      UserError: the texts cannot be read, or a tokenizer cannot be trained or read.
    """
    configs = [tokenizer_of(name) for name in tokenizers]
    bytes_ = TokenizerConfig("byte")
    corpus = prepare(DataConfig(source="files", path=path, tokenizer=bytes_))
    train, held_out = (
        texts_of(corpus.tokenizer, split) for split in (corpus.train, corpus.validation)
    )
    for name, config in zip(tokenizers, configs, strict=True):
        tokenizer = train_tokenizer(config, training_sample(train, config))
        yield _figures(name, tokenizer, train, held_out)


def _figures(
    name: str, tokenizer: Tokenizer, train: Sequence[str], held_out: Sequence[str]
) -> Figures:
    started = time.perf_counter()
    counted = tokenize(tokenizer, train)
    seconds = time.perf_counter() - started
    measured = tokenize(tokenizer, held_out)
    tokens = measured.tokens[measured.tokens != tokenizer.end_of_document]
    ids, counts = np.unique(tokens, return_counts=True)
    is_partial = np.array(["\ufffd" in tokenizer.decode(ids[i : i + 1]) for i in range(len(ids))])
    used = np.union1d(np.unique(counted.tokens), np.unique(measured.tokens))
    characters = int(measured.characters.sum())
    bits = None
    if tokenizer.lossless:
        longest = int(np.diff(counted.starts).max()) + 1
        config = NgramConfig(tokenizer.vocab_size, _WINDOW, order=min(_ORDER, longest))
        bits = ngram_nats(config, counted, measured) / math.log(2) / characters
    return Figures(
        name,
        tokenizer.vocab_size,
        characters / len(tokens),
        int(measured.bytes.sum()) / len(tokens),
        float(counts[is_partial].sum() / len(tokens)),
        tokenizer.vocab_size - len(used),
        tokenizer.lossless,
        int(counted.bytes.sum()) / 1e6 / seconds,
        bits,
    )
