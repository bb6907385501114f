"""Cleaning and splitting of texts: keeps validation text out of what a model trains on."""

import hashlib
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm_jax.data.spool import Selected, Spool, utf8_parts

_BLOCK = 1_000_000  # characters of a long text that are looked at together
_BLANK_LINE = re.compile(r"(\r?\n[ \t]*\r?\n)")


class Split(NamedTuple):
    """Texts to train on and held-out texts, and the numbers of the texts that they are from."""

    train: Sequence[str]
    validation: Sequence[str]
    trained: list[int]
    held_out: list[int]


# (texts, fraction to hold out, directory on whose disk new texts are kept) -> the split
SplitFunction = Callable[[Sequence[str], float, Path | None], Split]


def drop_repeated_paragraphs(
    texts: Iterable[str], known: Iterable[str] = (), directory: Path | None = None
) -> tuple[Spool, int]:
    """Returns the texts without paragraphs that occurred before, and the number of those dropped.

    Blank lines separate paragraphs; paragraphs are compared across all texts without surrounding
    white space. A text that holds only such paragraphs is returned as "".

    Args:
      known: texts whose paragraphs have all occurred before.
      directory: on whose disk the texts are kept; None: that of temporary files.
    """
    repeated, kept = RepeatedParagraphs(known), Spool(directory)
    for text in texts:
        kept.append_parts(repeated.new_parts(text))
    return kept, repeated.dropped


class RepeatedParagraphs:
    """Tells paragraphs that occurred before from new ones, in 8 bytes for each."""

    def __init__(self, known: Iterable[str] = ()):
        """Takes texts whose paragraphs have all occurred before."""
        self._seen = _Hashes()
        for text in known:
            for _, paragraph in _paragraphs(text):
                self._seen.add(_hash(paragraph.strip()))
        self.dropped = 0  # paragraphs

    def new_parts(self, text: str) -> Iterator[str]:
        """Yields a text, in parts, without the paragraphs that occurred before."""
        blank_so_far: list[str] | None = []
        is_first = True
        for blank, paragraph in _paragraphs(text):
            stripped = paragraph.strip()
            if stripped and self._seen.add(_hash(stripped)):
                self.dropped += 1
                continue
            part = paragraph if is_first else blank + paragraph
            is_first = False
            if blank_so_far is not None:
                blank_so_far.append(part)
                if not stripped:
                    continue
                part, blank_so_far = "".join(blank_so_far), None
            yield part


def _paragraphs(text: str) -> Iterator[tuple[str, str]]:
    """Yields each paragraph after the blank line before it."""
    blank, start = "", 0
    for found in _BLANK_LINE.finditer(text):
        yield blank, text[start : found.start()]
        blank, start = found[0], found.end()
    yield blank, text[start:]


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class _Hashes:
    """A set of 64-bit hashes, most of them in a sorted array: a Python set takes ten times that."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = array("Q")

    def add(self, value: int) -> bool:
        """Adds a hash; returns whether it was there."""
        index = bisect_left(self._sorted, value)
        if value in self._recent or self._sorted[index : index + 1] == array("Q", [value]):
            return True
        self._recent.add(value)
        if len(self._recent) > max(1_000_000, len(self._sorted) // 4):
            merged = np.concatenate([self._sorted, np.array([*self._recent], np.uint64)])
            merged.sort()
            self._sorted = array("Q", merged.tobytes())
            self._recent.clear()
        return False


def split_by_document(
    texts: Sequence[str], fraction: float, directory: Path | None = None
) -> Split:
    """Returns training and validation texts, by a hash of each text (`held_out_by_hash`)."""
    is_held_out = held_out_by_hash(texts, fraction)
    held_out = [number for number, held in enumerate(is_held_out) if held]
    kept = [number for number, held in enumerate(is_held_out) if not held]
    return Split(Selected(texts, kept), Selected(texts, held_out), kept, held_out)


def split_tails(texts: Sequence[str], fraction: float, directory: Path | None = None) -> Split:
    """Returns each text without its last `fraction` of characters, and those ends."""
    train, validation = Spool(directory), Spool(directory)
    split = Split(train, validation, [], [])
    for number, text in enumerate(texts):
        cut = int(len(text) * (1 - fraction))
        for spool, numbers, first, last in (
            (train, split.trained, 0, cut),
            (validation, split.held_out, cut, len(text)),
        ):
            if first < last:
                blocks = range(first, last, _BLOCK)
                spool.append_parts(text[at : min(at + _BLOCK, last)] for at in blocks)
                numbers.append(number)
    return split


SPLITS: dict[str, SplitFunction] = {"documents": split_by_document, "tail": split_tails}


def held_out_by_hash(keys: Iterable[str], fraction: float) -> list[bool]:
    """Returns whether each key is held out: one whose hash is below `fraction` is.

    A key therefore stays on its side whatever else joins the corpus. Where that leaves a side
    empty, as it may among a few keys, the keys are taken in the order of their hashes instead:
    `fraction` of the different keys, but at least one on each side. Equal keys stay together; a
    single key stays where its hash puts it.
    """
    hashes = [uniform(key) for key in keys]
    is_held_out = [value < fraction for value in hashes]
    if any(is_held_out) and not all(is_held_out):
        return is_held_out
    ordered = sorted(set(hashes))
    if len(ordered) < 2:
        return is_held_out
    count = min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)
    return [value < ordered[count] for value in hashes]


def uniform(text: str) -> float:
    """Returns a number in [0, 1) that the text alone decides."""
    digest = hashlib.sha256()
    for raw in utf8_parts(text):
        digest.update(raw)
    return int.from_bytes(digest.digest()[:8], "big") / 2**64


def overlap(train: Iterable[str], validation: Iterable[str]) -> float | None:
    """Returns the share of validation lines of 40 or more characters that also occur in training.

    Lines are compared without surrounding white space; None if no validation line is that long.
    """
    counts = Counter(map(hash, _long_lines(validation)))
    if not counts:
        return None
    found = counts.keys() & set(filter(counts.__contains__, map(hash, _long_lines(train))))
    return sum(counts[line] for line in found) / counts.total()


def _long_lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        start = 0
        while start < len(text):
            stop = text.find("\n", start + _BLOCK) + 1 or len(text)
            for line in map(str.strip, text[start:stop].splitlines()):
                if len(line) >= 40:
                    yield line
            start = stop
