"""Pairs of a word and a word near it, for skip-gram (Mikolov et al. 2013)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm_jax.data.documents import Batch, TokenizedDocuments, rows_of_process
from lm_jax.errors import UserError


@dataclass(frozen=True)
class _TrainingPairs:
    documents: TokenizedDocuments
    keep: np.ndarray  # [V]: the probability that an occurrence of a word is kept
    window: int
    batch_size: int
    rows: slice
    seed: int

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        tokens = self.documents.tokens
        # Drawn to excess: most pairs with a frequent word are dropped.
        words, near = np.zeros(0, np.int32), np.zeros(0, np.int32)
        while len(words) < self.batch_size:
            draws = 4 * self.batch_size
            place = rng.integers(len(tokens), size=draws)
            offset = _distances(rng, draws, self.window) * rng.choice((-1, 1), size=draws)
            other = place + offset
            inside = (other >= 0) & (other < len(tokens))
            word, neighbour = tokens[place], tokens[np.where(inside, other, 0)]
            kept = inside & (rng.random(draws) < self.keep[word] * self.keep[neighbour])
            kept &= _same_document(self.documents, place, other)
            words = np.append(words, word[kept]).astype(np.int32)
            near = np.append(near, neighbour[kept]).astype(np.int32)
        batch = {
            "inputs": words[: self.batch_size],
            "targets": near[: self.batch_size],
            "weights": np.ones(self.batch_size, np.float32),
        }
        return {name: value[self.rows] for name, value in batch.items()}


def _distances(rng: np.random.Generator, count: int, window: int) -> np.ndarray:
    """Distances 1 to `window`, the near ones more often: a window drawn from 1 to `window`."""
    weights = np.arange(window, 0, -1)
    return 1 + rng.choice(window, size=count, p=weights / weights.sum())


def _same_document(documents: TokenizedDocuments, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether two places in the stream are words of one document, bool [N]."""
    first = np.searchsorted(documents.starts, np.minimum(a, b), side="left")
    last = np.searchsorted(documents.starts, np.maximum(a, b), side="right")
    return first == last


def training_pairs(
    documents: TokenizedDocuments,
    *,
    vocab_size: int,
    window: int,
    subsampling: float,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> _TrainingPairs:
    """Random access to batches: `batches[step]` is a pure function of (seed, step).

    `inputs` [B] are words and `targets` [B] words at most `window` away in the same document.
    Occurrences of a word of frequency f are kept with probability sqrt(subsampling / f), at most 1
    (Mikolov et al. 2013, eq. 5); 0 keeps all.

    Raises:
      UserError: no two words stand beside each other.
    """
    if np.diff(documents.starts).max(initial=0) < 3:
        raise UserError("no document of the training split has two words; use more text")
    frequency = np.bincount(documents.tokens, minlength=vocab_size) / len(documents.tokens)
    keep = np.ones(vocab_size)
    if subsampling:
        keep = np.minimum(1.0, np.sqrt(subsampling / np.maximum(frequency, 1e-12)))
    rows = rows_of_process(batch_size, process_index, process_count)
    return _TrainingPairs(documents, keep, window, batch_size, rows, seed)


@dataclass(frozen=True)
class _EvaluationPairs(Sequence[Batch]):
    words: np.ndarray
    near: np.ndarray
    documents: np.ndarray
    batch_size: int
    rows: slice

    def __len__(self) -> int:
        return -(-len(self.words) // self.batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        numbers = np.arange(index * self.batch_size, (index + 1) * self.batch_size)[self.rows]
        is_pair = numbers < len(self.words)  # the last batch is filled up without weight
        numbers = np.where(is_pair, numbers, 0)
        return {
            "inputs": self.words[numbers],
            "targets": self.near[numbers],
            "weights": is_pair.astype(np.float32),
            "documents": self.documents[numbers],
        }


def evaluation_pairs(
    documents: TokenizedDocuments,
    *,
    window: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Sequence[Batch]:
    """All ordered pairs of words of a document at most `window` apart, each with weight 1.

    Raises:
      UserError: there is none.
    """
    tokens = np.asarray(documents.tokens, np.int32)
    places = np.arange(len(tokens))
    words, near, numbers = [], [], []
    for distance in range(1, window + 1):
        left = places[: max(len(tokens) - distance, 0)]
        left = left[_same_document(documents, left, left + distance)]
        number = np.searchsorted(documents.starts, left, side="right").astype(np.int32) - 1
        words += [tokens[left], tokens[left + distance]]
        near += [tokens[left + distance], tokens[left]]
        numbers += [number, number]
    if not sum(map(len, words)):
        raise UserError("no document of the validation split has two words; use more text")
    rows = rows_of_process(batch_size, process_index, process_count)
    return _EvaluationPairs(
        np.concatenate(words), np.concatenate(near), np.concatenate(numbers), batch_size, rows
    )
