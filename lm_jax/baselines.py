"""What counting characters and compressing cost on the same text, in bits per character.

The counting models code what a language model codes: every character of every document, and the
document's end, each document from its own start.
"""

import bz2
import lzma
import math
from collections.abc import Sequence

import numpy as np

_CODE_POINTS = 0x110000
_LONGEST = 5  # characters of an n-gram, fewer where the alphabet is too large to pack them
_START, _END = 0, 1  # the symbols before and after a document; characters follow


def baselines(train: Sequence[str], validation: Sequence[str]) -> dict[str, float]:
    """Bits per character of the validation documents, by the name of the method.

    `uniform` guesses among the training characters; unigram, bigram and 5-gram are counts of the
    training characters under interpolated modified Kneser-Ney smoothing (from 6,206 characters on
    a 4-gram stands for the 5-gram, from 55,106 on a trigram); `bz2 -9` and `xz -9` compress the
    validation text alone.
    """
    characters = sum(map(len, validation))
    alphabet = sorted(set().union(*train))
    train_ids = [_symbols(text, alphabet) for text in train]
    validation_ids = [_symbols(text, alphabet) for text in validation]
    unseen_bits = math.log2(_CODE_POINTS - len(alphabet))
    unseen = sum(int(np.sum(ids == len(alphabet) + 2)) for ids in validation_ids) * unseen_bits
    events = characters + len(validation)
    outcomes = len(alphabet) + 2  # the characters, the end, and one for all that is unseen
    bits = {"uniform": (events * math.log2(outcomes) + unseen) / characters}
    longest = next(n for n in range(_LONGEST, 2, -1) if _fits(outcomes + 1, n))
    for order, name in ((1, "unigram"), (2, "bigram"), (longest, f"{longest}-gram")):
        nats = kneser_ney_nats(train_ids, validation_ids, order, outcomes)
        bits[f"character {name}"] = (nats / math.log(2) + unseen) / characters
    joined = "".join(validation).encode()
    bits["bz2 -9"] = 8 * len(bz2.compress(joined, 9)) / characters
    bits["xz -9"] = 8 * len(lzma.compress(joined, preset=9)) / characters
    return bits


def _symbols(text: str, alphabet: Sequence[str]) -> np.ndarray:
    """A document as symbols: its characters from 2 on, one more for unseen ones, and its end."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
    known = np.array([ord(character) for character in alphabet])
    index = np.searchsorted(known, points)
    index[index == len(known)] = 0
    index = np.where(known[index] == points, index, len(known))
    return np.append(index + 2, _END)


def kneser_ney_nats(
    train: Sequence[np.ndarray], test: Sequence[np.ndarray], order: int, outcomes: int
) -> float:
    """Total nats of the test documents under interpolated modified Kneser-Ney of the given order.

    Chen & Goodman 1998, section 3 (eq. 3.24 to 3.27): the top order counts, lower orders count
    distinct left contexts; three discounts an order from the counts of counts; the unigram is
    interpolated with the uniform distribution over `outcomes`.

    Args:
      train, test: documents of symbols from 1 up, the end (1) last; 0 is kept for the start.
    """
    base = outcomes + 1  # symbols 0 .. outcomes
    train_keys = _contexts_and_symbols(train, order, base)
    test_keys = _contexts_and_symbols(test, order, base)
    probability = np.full(len(test_keys), 1.0 / outcomes)
    for n in range(1, order + 1):
        grams, counts = _counts(train_keys, n, order, base)
        probability = _interpolate(grams, counts, test_keys % base**n, base, probability)
    return float(-np.log(probability).sum())


def _fits(base: int, order: int) -> bool:
    """Whether n-grams of so many symbols can be told apart by an int64."""
    return base**order < 1 << 63


def _contexts_and_symbols(documents: Sequence[np.ndarray], order: int, base: int) -> np.ndarray:
    """Each event with its order - 1 predecessors as one integer; the newest is the last digit."""
    if not _fits(base, order):
        raise ValueError(f"{base} symbols are too many for {order}-grams packed in 64 bits")
    keys = []
    for symbols in documents:
        padded = np.concatenate([np.full(order - 1, _START), symbols])
        windows = np.lib.stride_tricks.sliding_window_view(padded, order)
        keys.append(windows @ base ** np.arange(order - 1, -1, -1))
    return np.concatenate(keys)


def _counts(keys: np.ndarray, n: int, order: int, base: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct n-grams and their counts: of events at the top, of left extensions below.

    An n-gram that begins with the start of a document has no left extension but the start itself,
    so its events are counted, as at the top.
    """
    if n == order:
        return np.unique(keys, return_counts=True)
    longer = np.unique(keys % base ** (n + 1))
    extended, extensions = np.unique(longer % base**n, return_counts=True)
    starts_document = (extended // base ** (n - 1) == _START) if n > 1 else np.zeros(0, bool)
    if starts_document.any():
        grams, events = np.unique(keys % base**n, return_counts=True)
        events = events[np.searchsorted(grams, extended)]
        extensions = np.where(starts_document, events, extensions)
    return extended, extensions


def _interpolate(
    grams: np.ndarray, counts: np.ndarray, wanted: np.ndarray, base: int, lower: np.ndarray
) -> np.ndarray:
    """p(symbol | context) of the wanted n-grams, given their probability at the order below."""
    discounts = _discounts(counts)
    contexts, first = np.unique(grams // base, return_index=True)
    totals = np.add.reduceat(counts, first)
    mass = np.add.reduceat(discounts[np.minimum(counts, 3)], first)

    at = np.minimum(np.searchsorted(grams, wanted), len(grams) - 1)
    count = np.where(grams[at] == wanted, counts[at], 0)
    where = np.minimum(np.searchsorted(contexts, wanted // base), len(contexts) - 1)
    known = contexts[where] == wanted // base
    total = np.where(known, totals[where], 1)
    left = np.where(known, mass[where] / total, 1.0)
    return (count - discounts[np.minimum(count, 3)]) / total + left * lower


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from counts of 0, 1, 2, and 3 or more (Chen & Goodman 1998, eq. 3.26)."""
    n1, n2, n3, n4 = (int(np.sum(counts == k)) for k in (1, 2, 3, 4))
    if not (n1 and n2):
        return np.array([0.0, 0.5, 0.5, 0.5])  # counts of counts that say nothing
    y = n1 / (n1 + 2 * n2)
    one, two = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2
    three = 3 - 4 * y * n4 / n3 if n3 else two
    # Repetitive text gives estimates below 0; at 0 a context that is always followed alike would
    # leave nothing to what never followed it, and one surprise would cost infinitely many bits.
    return np.array([0.0, one, two if two > 0 else one, three if three > 0 else one])
