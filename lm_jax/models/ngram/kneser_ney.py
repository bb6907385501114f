"""Counts and smooths n-grams with NumPy.

Words are token ids. Level n lists the distinct n-grams sorted by (first n - 1 words, last word),
where the first words are given by their row in level n - 1. The levels form a trie in which the
n-grams that extend one context are adjacent. Level 0 is the empty context. Level 1 has a row for
each id of the vocabulary, seen or not, so that a word is its own row.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.plurals import counted


class Level(NamedTuple):
    """The n-grams of one length; arrays are [N], the first three int32."""

    context: np.ndarray  # row in level n - 1 of the first n - 1 words
    word: np.ndarray  # the last word
    suffix: np.ndarray  # row in level n - 1 of the last n - 1 words
    occurrences: np.ndarray  # int64: number of occurrences in the text


class Estimates(NamedTuple):
    """Probabilities of the levels, as in an ARPA file."""

    log_probability: list[np.ndarray]
    """log p(word | context), interpolated, for levels 1 and up; float32 [N] each."""

    log_back_off: list[np.ndarray]
    """log of the back-off weight for levels 0 to order - 1; float32 [N] each. It multiplies the
    shorter context's probability of a word that never followed the n-gram."""


def count(
    tokens: np.ndarray, starts: np.ndarray, vocab_size: int, order: int, *, across: bool
) -> list[Level]:
    """Counts levels 1 to `order` of a stream `end doc end doc ... end`.

    Each token except the first is predicted once.

    Args:
      tokens: [N] ids below `vocab_size`.
      starts: [D + 1] positions of the token before each document, and N - 1 at the end.
      across: whether contexts cross document boundaries; otherwise a context reaches back at most
        to the end token that opens its document.

    Raises:
      UserError: an id is not in the vocabulary, or no context is long enough for the order.
    """
    if len(tokens) >= 1 << 31:
        raise UserError(f"{len(tokens):,} tokens to count; the n-gram model takes fewer than 2^31")
    tokens = np.asarray(tokens).astype(np.int32)
    if len(tokens) < 2 or not 0 <= tokens.min() <= tokens.max() < vocab_size:
        seen = f"ids from {tokens.min()} to {tokens.max()}" if len(tokens) else "none"
        raise UserError(
            f"{counted(len(tokens), 'token')} to count ({seen}); expected at least 2, below "
            f"model.vocab_size {vocab_size}"
        )
    context_lengths = _context_lengths(len(tokens), starts, across)
    if order > context_lengths.max() + 1:
        raise UserError(
            f"model.order is {order}, but the longest text to count in has only "
            f"{counted(context_lengths.max() + 1, 'token')}, its ends included; use a lower order "
            "or more text"
        )
    counts = np.bincount(tokens[1:], minlength=vocab_size)
    nothing = np.zeros(vocab_size, np.int32)
    levels = [Level(nothing, np.arange(vocab_size, dtype=np.int32), nothing, counts)]
    rows = tokens  # of the (n - 1)-gram that ends at each position
    for n in range(2, order + 1):
        at = np.flatnonzero(context_lengths >= n - 1)
        level, rows = _longer(tokens, rows, at, vocab_size)
        levels.append(level)
    return levels


def _context_lengths(num_tokens: int, starts: np.ndarray, across: bool) -> np.ndarray:
    """Returns the longest context of each position in tokens, int32 [N]."""
    lengths = np.arange(num_tokens, dtype=np.int32)
    if not across:
        starts = np.asarray(starts)
        lengths[1:] -= np.repeat(starts[:-1], np.diff(starts)).astype(np.int32)
    return lengths


def _longer(
    tokens: np.ndarray, rows: np.ndarray, at: np.ndarray, vocab_size: int
) -> tuple[Level, np.ndarray]:
    """Returns the level of the n-grams that end at positions `at`, and each position's row.

    Rows and ids are below 2^31, so a row and an id fit a 64-bit key at any order.
    """
    keys = rows[at - 1].astype(np.int64) * vocab_size + tokens[at]
    keys, origin = _sort(keys)
    is_new = np.append(True, keys[1:] != keys[:-1])
    origin = at[origin]
    longer_rows = np.full(len(tokens), -1, np.int32)
    longer_rows[origin] = np.cumsum(is_new, dtype=np.int32) - 1
    first = np.flatnonzero(is_new)
    context, word = np.divmod(keys[first], vocab_size)
    level = Level(
        context.astype(np.int32),
        word.astype(np.int32),
        rows[origin[first]],
        np.diff(first, append=len(keys)),
    )
    return level, longer_rows


def _sort(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted keys, which are at least 0, and their original indices."""
    bits = len(keys).bit_length()
    if int(keys.max()).bit_length() + bits > 63:
        origin = np.argsort(keys)
        return keys[origin], origin
    # Sorting keys packed with their indices takes a third of the time of argsort.
    packed = np.sort(keys << bits | np.arange(len(keys)))
    return packed >> bits, packed & ((1 << bits) - 1)


def estimate(levels: Sequence[Level], smoothing: str, k: float) -> Estimates:
    """Returns smoothed probabilities, computed in float64 and stored in float32.

    `kneser_ney` is interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3, eq. 24 to
    27) with KenLM's conventions (Heafield et al. 2013). The highest order uses counts in the text.
    Lower orders count the distinct words before an n-gram; n-grams that only begin documents keep
    their counts in the text. Unigrams are interpolated with a uniform distribution over the words
    seen and, if any were not seen, one more share that the unseen ids divide evenly.

    `maximum_likelihood` is count / count of the context, for the longest suffix of the context
    that was ever continued; a word that never followed it has probability 0.

    `add_k` is (count + k) / (count of the context + k V) for the whole context.
    """
    vocab_size, smooth = len(levels[0].word), SMOOTHINGS[smoothing]
    logs: Any = Estimates([], [])
    shorter, num_contexts = _uniform(levels[0].occurrences), 1
    for n, level in enumerate(levels):
        counts = level.occurrences
        if smooth.counts_extensions and n + 1 < len(levels):
            extensions = np.bincount(levels[n + 1].suffix, minlength=len(counts))
            counts = np.where(extensions, extensions, counts)
        lower = shorter[level.suffix] if n else shorter
        found = Counts(counts, level.context, num_contexts)
        shorter, back_off = smooth.probabilities(found, lower, k, vocab_size)
        num_contexts = len(counts)
        with np.errstate(divide="ignore"):  # log 0 = -inf is intended
            logs.log_probability.append(np.minimum(np.log(shorter), 0).astype(np.float32))
            logs.log_back_off.append(np.log(back_off).astype(np.float32))
    return logs


def _uniform(counts: np.ndarray) -> np.ndarray:
    """Returns the order-0 distribution: a share per word seen, and one for all unseen words."""
    num_unseen = int(np.sum(counts == 0))
    shares = len(counts) - num_unseen + (num_unseen > 0)
    return np.where(counts > 0, 1.0, 1.0 / max(num_unseen, 1)) / shares


class Counts(NamedTuple):
    """The counts of the n-grams of one level [N], the context of each, and how many there are."""

    counts: np.ndarray
    context: np.ndarray
    num_contexts: int


def _kneser_ney(
    found: Counts, lower: np.ndarray, k: float, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    counts, context, num_contexts = found
    discount = discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(context, counts, num_contexts)
    left = np.bincount(context, discount, num_contexts)
    left = np.divide(left, total, out=np.ones(num_contexts), where=total > 0)
    return (counts - discount) / total[context] + left[context] * lower, left


def discounts(counts: np.ndarray) -> np.ndarray:
    """Returns the discounts of counts 0, 1, 2, and 3 or more (Chen & Goodman 1998, eq. 26).

    Falls back to KenLM's 0.5, 1 and 1.5 if no n-gram has a count of 1, 2 or 3, as among
    characters, or if an estimated discount is not above 0.
    """
    n1, n2, n3, n4 = (int(np.sum(counts == times)) for times in (1, 2, 3, 4))
    fallback = np.array([0.0, 0.5, 1.0, 1.5])
    if not (n1 and n2 and n3):
        return fallback
    y = n1 / (n1 + 2 * n2)
    estimated = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return estimated if (estimated[1:] > 0).all() else fallback


def _maximum_likelihood(
    found: Counts, lower: np.ndarray, k: float, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    counts, context, num_contexts = found
    total = np.bincount(context, counts, num_contexts)
    return counts / total[context], np.where(total > 0, 0.0, 1.0)


def _add_k(
    found: Counts, lower: np.ndarray, k: float, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolates with 1 / V in place of the lower order."""
    counts, context, num_contexts = found
    total = np.bincount(context, counts, num_contexts) + k * vocab_size
    return (counts + k) / total[context], k * vocab_size / total


class Smoothing(NamedTuple):
    """A way to estimate probabilities from counts."""

    probabilities: Callable[[Counts, np.ndarray, float, int], tuple[np.ndarray, np.ndarray]]
    """(counts, lower order's p of each n-gram [N], k, vocabulary) -> p of each n-gram, and the mass
    that each context leaves to the lower order."""

    counts_extensions: bool = False  # lower orders count the words before an n-gram
    backs_off: bool = True  # words that never followed have the shorter context's probability


SMOOTHINGS = {
    "kneser_ney": Smoothing(_kneser_ney, counts_extensions=True),
    "add_k": Smoothing(_add_k, backs_off=False),
    "maximum_likelihood": Smoothing(_maximum_likelihood),
}


def best_words(
    levels: Sequence[Level], estimates: Estimates, floor: float | None
) -> list[np.ndarray]:
    """Returns the most probable word after each context of levels 0 to order - 1.

    It is the best word that followed the context, or the best of the shorter context times the
    back-off weight, in the float32 arithmetic of a look-up. Ties go to the lower id.

    Args:
      floor: log p that replaces the shorter context's for every word (add-k); None: not used.
    """
    score, word = np.full(1, -np.inf, np.float32), np.zeros(1, np.int32)
    found = []
    for n, (level, log_p) in enumerate(zip(levels, estimates.log_probability, strict=True)):
        if n:
            suffix = levels[n - 1].suffix
            score, word = score[suffix], word[suffix]
            if floor is not None:
                score, word = np.full_like(score, floor), np.zeros_like(word)
            score = score + estimates.log_back_off[n]
        first = np.flatnonzero(np.append(True, level.context[1:] != level.context[:-1]))
        context = level.context[first]
        top = np.maximum.reduceat(log_p, first)
        of_top = np.flatnonzero(log_p == np.repeat(top, np.diff(first, append=len(log_p))))
        child = level.word[of_top[np.searchsorted(of_top, first)]]
        old, old_word = score[context], word[context]
        wins = (top > old) | ((top == old) & (child < old_word))
        score[context], word[context] = np.maximum(top, old), np.where(wins, child, old_word)
        found.append(word)
    return found


def first_children(level: Level, num_contexts: int) -> np.ndarray:
    """Returns the first row of each context's n-grams, and the end, int32 [contexts + 1]."""
    sizes = np.bincount(level.context, minlength=num_contexts)
    return np.append(0, np.cumsum(sizes)).astype(np.int32)
