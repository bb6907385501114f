"""Bits per character of n-gram models and compressors on the same text.

The n-gram models code what a language model codes: every character and the end of every document,
each document from its own start.
"""

import bz2
import lzma
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from lm_jax.data.documents import TokenizedDocuments
from lm_jax.data.text.windows import evaluation_batches
from lm_jax.evaluation.loss_sums import make_loss_function
from lm_jax.models.ngram.model import NgramConfig, ngram

MOST_TRAINING_TOKENS = 2_000_000  # of which a run counts n-grams; more would take too long

_CODE_POINTS = 0x110000
_WINDOW = 512  # characters in a window; windows overlap by the order of the n-gram


def baselines(train: Sequence[str], validation: Sequence[str]) -> dict[str, float]:
    """Returns bits per character of the validation documents, by the name of the method.

    `uniform` guesses among the training characters. Unigram, bigram and 5-gram are models of
    training characters with interpolated modified Kneser-Ney smoothing. `bz2 -9` and `xz -9`
    compress the validation text alone.
    """
    characters = sum(map(len, validation))
    alphabet = sorted(set().union(*train))
    counted, coded = _symbols(train, alphabet), _symbols(validation, alphabet)
    unseen_bits = math.log2(_CODE_POINTS - len(alphabet))
    unseen = int(np.sum(coded.tokens == len(alphabet))) * unseen_bits
    events = characters + len(validation)
    outcomes = len(alphabet) + 2  # the characters, one symbol for unseen characters, and the end
    bits = {"uniform": (events * math.log2(outcomes) + unseen) / characters}
    longest = int(np.diff(counted.starts).max()) + 1
    for order, name in ((1, "unigram"), (2, "bigram"), (5, "5-gram")):
        config = NgramConfig(outcomes, context_length=_WINDOW, order=min(order, longest))
        nats = ngram_nats(config, counted, coded)
        bits[f"character {name}"] = (nats / math.log(2) + unseen) / characters
    joined = "".join(validation).encode()
    bits["bz2 -9"] = 8 * len(bz2.compress(joined, 9)) / characters
    bits["xz -9"] = 8 * len(lzma.compress(joined, preset=9)) / characters
    return bits


def _symbols(texts: Sequence[str], alphabet: Sequence[str]) -> TokenizedDocuments:
    """Returns documents as indices into the alphabet, one for unseen characters, and the end."""
    symbol_of = np.full(_CODE_POINTS, len(alphabet), np.int32)
    symbol_of[np.array([ord(character) for character in alphabet], int)] = np.arange(len(alphabet))
    end = np.array([len(alphabet) + 1], np.int32)
    stream = [end]
    for text in texts:
        stream += [symbol_of[np.frombuffer(text.encode("utf-32-le"), np.uint32)], end]
    characters = np.array([len(text) for text in texts])
    return TokenizedDocuments(
        tokens=np.concatenate(stream),
        starts=np.append(0, np.cumsum(characters + 1)),
        characters=characters,
        bytes=np.array([len(text.encode()) for text in texts]),
        words=np.array([len(text.split()) for text in texts]),
    )


def ngram_nats(
    config: NgramConfig, train: TokenizedDocuments, validation: TokenizedDocuments
) -> float:
    """Returns the total nats of the validation documents, each symbol with its full context."""
    model = ngram(config)
    assert model.fit is not None
    variables, losses = model.fit(train), make_loss_function(model.loss)
    time, total = config.context_length, 0.0
    for batch in evaluation_batches(
        validation, context_length=time, batch_size=16, stride=time - config.order
    ):
        arrays = {name: jnp.asarray(x) for name, x in batch.items() if name != "documents"}
        nats = losses(variables, arrays).nats
        total += float(np.asarray(nats, np.float64)[batch["weights"] > 0].sum())
    return total
