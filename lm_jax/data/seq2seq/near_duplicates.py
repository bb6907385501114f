"""Near-duplicates between held-out and training texts."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_GRAM = 4  # characters
_SIMILAR = 0.7  # Jaccard: about one word in eight differs
_BLOCK = 100_000  # texts, or pairs of texts, compared at once
_PAIRS = 5_000_000  # of equal n-grams, in memory at once
_FIRST = 1_000  # pairs that are compared first


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
    if not len(held_out):
        return np.zeros(0, bool), np.zeros(len(train), bool)
    # Equal texts have equal n-grams: of a thousand alike messages one is compared.
    (mine, of_mine), (theirs, of_theirs) = _distinct(held_out), _distinct(train)
    in_train, in_held = _near_duplicates(mine, theirs)
    return in_train[of_mine], in_held[of_theirs]


def _distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Returns the different texts after `normalise`, and the index of each text among them."""
    numbers: dict[str, int] = {}
    indices = [numbers.setdefault(normalise(text), len(numbers)) for text in texts]
    return list(numbers), np.array(indices, np.int64)


def _near_duplicates(
    held_out: Sequence[str], train: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `near_duplicates` does, of texts that are normalised."""
    import scipy.sparse

    def matrix(grams: _Grams, columns: np.ndarray, chosen: np.ndarray):
        cells = (grams.rows[chosen], columns[chosen])
        shape = (len(grams.sizes), len(vocabulary))
        return scipy.sparse.csr_array((np.ones(len(cells[0]), np.int32), cells), shape=shape)

    in_train, in_held = np.zeros(len(held_out), bool), np.zeros(len(train), bool)
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
        for rows in _blocks(rare @ others.sum(axis=0)):
            mine, theirs = (rare[rows] @ others.T).nonzero()
            mine = mine + rows.start
            sizes = grams.sizes[mine], other_grams.sizes[theirs]
            may_be = np.minimum(*sizes) >= _SIMILAR * np.maximum(*sizes)
            mine, theirs = mine[may_be], theirs[may_be]
            # Where many are alike, some pairs drawn at random decide on nearly all texts.
            order = np.random.default_rng(0).permutation(len(mine))
            for part in _growing(len(mine)):
                a, b = mine[order[part]], theirs[order[part]]
                is_open = ~(in_train[a] & in_held[first + b])  # else both are known
                a, b = a[is_open], b[is_open]
                shared = held[a].multiply(others[b]).sum(axis=1)
                similar = shared >= _SIMILAR * (grams.sizes[a] + other_grams.sizes[b] - shared)
                in_train[a[similar]] = in_held[first + b[similar]] = True
    return in_train, in_held


def _growing(count: int) -> Iterator[slice]:
    """Yields all of `count` items in parts that double up to `_BLOCK`."""
    first, size = 0, _FIRST
    while first < count:
        yield slice(first, first + size)
        first, size = first + size, min(2 * size, _BLOCK)


def _blocks(pairs: np.ndarray) -> Iterator[slice]:
    """Yields rows in parts of at most about `_PAIRS` pairs of equal n-grams, at least one row."""
    ends = np.cumsum(pairs)
    first = 0
    while first < len(pairs):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + _PAIRS, "right")), first + 1)
        yield slice(first, last)
        first = last


class _Grams(NamedTuple):
    """The distinct n-grams of each text, sorted by text."""

    rows: np.ndarray  # [G] index of the text
    codes: np.ndarray  # [G] uint64 hash of the n-gram
    sizes: np.ndarray  # [N] number of distinct n-grams of each text


def _grams(texts: Sequence[str]) -> _Grams:
    padded = [text.ljust(_GRAM) for text in texts]
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
