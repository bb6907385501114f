"""Near-duplicates between held-out and training texts."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_GRAM = 4  # characters
_SIMILAR = 0.7  # Jaccard: about one word in eight differs
_BLOCK = 100_000  # texts, or pairs of texts, compared at once


def normalise(text: str) -> str:
    """Returns the text in lower case, each digit as 0, without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", re.sub(r"\d", "0", text.lower()))


def near_duplicates(held_out: Sequence[str], train: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Finds near-duplicates between held-out and training texts; returns two bool arrays [N].

    The first marks held-out texts that have a near-duplicate in training, the second training texts
    that have one in the held-out split. Two texts are near-duplicates if they are equal after
    `normalise`, or if the sets of their character 4-grams have a Jaccard similarity of at least
    0.7. Prefix filtering finds all of them (Chaudhuri et al. 2006): a text with n n-grams shares
    one of its floor(0.3 n) + 1 rarest with every text that is so similar, so only such pairs are
    compared.
    """
    import scipy.sparse

    def matrix(grams: _Grams, columns: np.ndarray, chosen: np.ndarray):
        cells = (grams.rows[chosen], columns[chosen])
        shape = (len(grams.sizes), len(vocabulary))
        return scipy.sparse.csr_array((np.ones(len(cells[0]), np.int32), cells), shape=shape)

    in_train, in_held = np.zeros(len(held_out), bool), np.zeros(len(train), bool)
    if not len(held_out):
        return in_train, in_held
    grams = _grams(held_out)
    vocabulary, columns = np.unique(grams.codes, return_inverse=True)
    held = matrix(grams, columns, np.ones(len(columns), bool))
    sample = np.sort(_grams(train[:_BLOCK]).codes)
    counts = np.searchsorted(sample, vocabulary, "right") - np.searchsorted(sample, vocabulary)
    rare = matrix(grams, columns, _rarest(grams, columns, counts[columns]))
    for first in range(0, len(train), _BLOCK):
        other_grams = _grams(train[first : first + _BLOCK])
        columns = np.minimum(np.searchsorted(vocabulary, other_grams.codes), len(vocabulary) - 1)
        others = matrix(other_grams, columns, vocabulary[columns] == other_grams.codes)
        mine, theirs = (rare @ others.T).nonzero()
        sizes = grams.sizes[mine], other_grams.sizes[theirs]
        may_be = np.minimum(*sizes) >= _SIMILAR * np.maximum(*sizes)
        mine, theirs = mine[may_be], theirs[may_be]
        for part in range(0, len(mine), _BLOCK):
            a, b = mine[part : part + _BLOCK], theirs[part : part + _BLOCK]
            shared = held[a].multiply(others[b]).sum(axis=1)
            similar = shared >= _SIMILAR * (grams.sizes[a] + other_grams.sizes[b] - shared)
            in_train[a[similar]] = in_held[first + b[similar]] = True
    return in_train, in_held


class _Grams(NamedTuple):
    """The distinct n-grams of each text, sorted by text."""

    rows: np.ndarray  # [G] index of the text
    codes: np.ndarray  # [G] uint64 hash of the n-gram
    sizes: np.ndarray  # [N] number of distinct n-grams of each text


def _grams(texts: Sequence[str]) -> _Grams:
    padded = [normalise(text).ljust(_GRAM) for text in texts]
    points = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32).astype(np.uint64)
    codes = np.zeros(max(len(points) - _GRAM + 1, 0), np.uint64)
    for offset in range(_GRAM):
        codes = codes * np.uint64(0x9E3779B97F4A7C15) + points[offset : offset + len(codes)]
    lengths = np.array([len(text) for text in padded], np.int64)
    counts = lengths - _GRAM + 1
    rows = np.repeat(np.arange(len(texts)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    codes = codes[np.repeat(np.cumsum(lengths) - lengths, counts) + within]
    order = np.lexsort((codes, rows))
    rows, codes = rows[order], codes[order]
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (np.diff(rows) != 0) | (codes[1:] != codes[:-1])
    rows, codes = rows[is_new], codes[is_new]
    return _Grams(rows, codes, np.bincount(rows, minlength=len(texts)))


def _rarest(grams: _Grams, columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns whether each n-gram is among the rarest of its text, bool [G]."""
    order = np.lexsort((columns, counts, grams.rows))
    ends = np.cumsum(grams.sizes)
    ranks = np.arange(len(order)) - np.repeat(ends - grams.sizes, grams.sizes)
    found = np.zeros(len(order), bool)
    found[order] = ranks < ((1 - _SIMILAR) * grams.sizes[grams.rows] + 1e-9).astype(int) + 1
    return found
