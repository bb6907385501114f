"""Finding held-out sentences that a model has all but seen in training."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

_GRAM = 4  # characters
_SIMILAR = 0.7  # Jaccard: about one word in eight differs


def normalise(text: str) -> str:
    """The text in lower case, each digit 0, without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", re.sub(r"\d", "0", text.lower()))


def near_copies(held_out: Sequence[str], train: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which held-out texts nearly stand in training, and which of training in them: two bool [N].

    Two texts are near copies if they are equal after `normalise`, or if the sets of their
    4-grams of characters have a Jaccard similarity of at least 0.7. Found exactly, by prefix
    filtering (Chaudhuri et al. 2006): a text that similar to another one shares with it one of its
    floor(0.3 n) + 1 rarest n-grams.
    """
    held_grams = [_grams(text) for text in held_out]
    known = set().union(*held_grams)
    counts: Counter[str] = Counter()
    for text in train:
        counts.update(_grams(text) & known)
    index: dict[str, list[int]] = defaultdict(list)
    for number, grams in enumerate(held_grams):
        rarest = sorted(grams, key=lambda gram: (counts[gram], gram))
        for gram in rarest[: int((1 - _SIMILAR) * len(grams) + 1e-9) + 1]:
            index[gram].append(number)
    in_train, in_held = np.zeros(len(held_out), bool), np.zeros(len(train), bool)
    for place, text in enumerate(train):
        grams = _grams(text)
        least, most = _SIMILAR * len(grams), len(grams) / _SIMILAR
        for number in {number for gram in grams if gram in index for number in index[gram]}:
            if not least <= len(held_grams[number]) <= most:
                continue
            shared = len(grams & held_grams[number])
            if shared >= _SIMILAR * (len(grams) + len(held_grams[number]) - shared):
                in_train[number] = in_held[place] = True
    return in_train, in_held


def _grams(text: str) -> set[str]:
    text = normalise(text)
    if len(text) <= _GRAM:
        return {text}
    return {text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)}
