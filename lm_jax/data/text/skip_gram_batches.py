"""Pairs of a word and a word near it as batches, for skip-gram (Mikolov et al. 2013)."""

import numpy as np

from lm_jax.data.batches import (
    WHOLE,
    Batch,
    EvaluationBatches,
    RandomAccessBatches,
    Rows,
    Share,
    batches_in_order,
    slots_of_process,
)
from lm_jax.data.documents import TokenizedDocuments
from lm_jax.errors import UserError


def training_pairs(
    documents: TokenizedDocuments,
    *,
    vocab_size: int,
    window: int,
    subsampling: float,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
) -> RandomAccessBatches:
    """Returns batches of random pairs, each a pure function of (seed, step).

    `inputs` [B] are words and `targets` [B] words at most `window` away in the same document.
    Occurrences of a word of frequency f are kept with probability sqrt(subsampling / f), at most 1
    (Mikolov et al. 2013, eq. 5); 0 keeps all.

    Raises:
      UserError: no document has two words, or the batch does not divide.
    """
    if np.diff(documents.starts).max(initial=0) < 3:
        raise UserError("no document of the training split has two words; use more text")
    frequency = np.bincount(documents.tokens, minlength=vocab_size) / len(documents.tokens)
    keep = np.ones(vocab_size)
    if subsampling:
        keep = np.minimum(1.0, np.sqrt(subsampling / np.maximum(frequency, 1e-12)))

    def make(rows: Rows) -> Batch:
        rng = np.random.default_rng((seed, rows.step))
        # Pairs are drawn for the whole batch, so that they do not depend on the processes.
        words, near = _draw_pairs(documents, keep, window, batch_size, rng)
        return {
            "inputs": words[rows.slots],
            "targets": near[rows.slots],
            "weights": np.ones(len(rows.slots), np.float32),
        }

    slots = slots_of_process(batch_size, share)
    return RandomAccessBatches(make, batch_size, slots)


def _draw_pairs(
    documents: TokenizedDocuments,
    keep: np.ndarray,
    window: int,
    count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns words and words near them, both int32 [count].

    Args:
      keep: probability that an occurrence of each word is kept, float [V].
    """
    tokens = documents.tokens
    words, near = np.zeros(0, np.int32), np.zeros(0, np.int32)
    while len(words) < count:
        draws = 4 * count  # most pairs with a frequent word are dropped
        position = rng.integers(len(tokens), size=draws)
        offset = _distances(rng, draws, window) * rng.choice((-1, 1), size=draws)
        other = position + offset
        is_inside = (other >= 0) & (other < len(tokens))
        word, neighbour = tokens[position], tokens[np.where(is_inside, other, 0)]
        kept = is_inside & (rng.random(draws) < keep[word] * keep[neighbour])
        kept &= _same_document(documents, position, other)
        words = np.append(words, word[kept]).astype(np.int32)
        near = np.append(near, neighbour[kept]).astype(np.int32)
    return words[:count], near[:count]


def _distances(rng: np.random.Generator, count: int, window: int) -> np.ndarray:
    """Returns distances 1 to `window`; distance d has a weight of window + 1 - d.

    The effect is that of a window drawn uniformly from 1 to `window`.
    """
    weights = np.arange(window, 0, -1)
    return 1 + rng.choice(window, size=count, p=weights / weights.sum())


def _same_document(documents: TokenizedDocuments, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns whether two positions in the stream are words of one document, bool [N]."""
    first = np.searchsorted(documents.starts, np.minimum(a, b), side="left")
    last = np.searchsorted(documents.starts, np.maximum(a, b), side="right")
    return first == last


def evaluation_pairs(
    documents: TokenizedDocuments,
    *,
    window: int,
    batch_size: int,
    share: Share = WHOLE,
) -> EvaluationBatches:
    """Returns all ordered pairs of words of a document at most `window` apart, with weight 1.

    `documents` [B] holds the index of each pair's document.

    Raises:
      UserError: no document has two words, or the batch does not divide.
    """
    tokens = np.asarray(documents.tokens, np.int32)
    positions = np.arange(len(tokens))
    words, near, numbers = [], [], []
    for distance in range(1, window + 1):
        left = positions[: max(len(tokens) - distance, 0)]
        left = left[_same_document(documents, left, left + distance)]
        number = np.searchsorted(documents.starts, left, side="right").astype(np.int32) - 1
        words += [tokens[left], tokens[left + distance]]
        near += [tokens[left + distance], tokens[left]]
        numbers += [number, number]
    if not sum(map(len, words)):
        raise UserError("no document of the validation split has two words; use more text")
    columns = {
        "inputs": np.concatenate(words),
        "targets": np.concatenate(near),
        "documents": np.concatenate(numbers),
    }

    def make(rows: Rows) -> Batch:
        batch = {name: column[rows.examples] for name, column in columns.items()}
        return batch | {"weights": np.ones(len(rows.examples), np.float32)}

    return batches_in_order(
        make,
        len(columns["inputs"]),
        batch_size=batch_size,
        share=share,
    )
