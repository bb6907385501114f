"""Quality of Japanese text, counted in characters: the rules of the Swallow corpus.

Okazaki et al., "Building a Large Japanese Web Corpus for Large Language Models" (2024), and the
thresholds of their program, which has Gopher's limits for n-grams, of characters. Ours differ where
good technical text was dropped: a sentence has hiragana, so that code and menus are none; shares of
n-grams are means over pieces of a page's length, and more of them may repeat.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from lm_jax.data.preparation.config import JapaneseQualityConfig
from lm_jax.data.preparation.plan import Plan

_SENTENCE = re.compile(r"[^。．！？!?\n]+[。．！？!?]?")
_HIRAGANA = re.compile("[ぁ-ゖ]+")
_KATAKANA = re.compile("[ァ-ヺー]+")
_OTHER = re.compile("[々〇〻㐀-鿿豈-﫿、，。．！？「」『』・（）\U00020000-\U0002ffff]+")
_PIECE = 5000  # characters
_LARGEST_TOP = {2: 0.20, 3: 0.18, 4: 0.16}  # share of the most frequent n-gram
_LARGEST_REPEATED_SHARE = 0.30  # of lines or sentences
_LARGEST_REPEATED_CHARACTERS = 0.20  # in these


def repeated_parts(parts: Sequence[str]) -> tuple[float, float]:
    """Returns the share of parts that came before, and of their characters."""
    counts = Counter(parts)
    characters = sum(map(len, parts)) or 1
    repeated = sum(len(part) * (count - 1) for part, count in counts.items())
    return 1 - len(counts) / max(len(parts), 1), repeated / characters


def repeated_ngrams(text: str) -> tuple[dict[int, float], dict[int, float]]:
    """Returns shares by n: of the most frequent n-gram, and of different n-grams that repeat.

    They are means over pieces of a web page's length: in a longer text more of the n-grams repeat.
    """
    pieces = max(1, round(len(text) / _PIECE))
    bounds = [len(text) * n // pieces for n in range(pieces + 1)]
    measured = [_repeated_ngrams(text[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
    top, repeated = (
        {n: float(np.mean([shares[n] for shares in parts])) for n in parts[0]}
        for parts in zip(*measured, strict=True)
    )
    return top, repeated


def _repeated_ngrams(text: str) -> tuple[dict[int, float], dict[int, float]]:
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    top: dict[int, float] = {}
    repeated: dict[int, float] = {}
    hashes = characters.copy()
    for n in range(2, 11):
        if len(characters) < n:
            break
        # Rolling hashes modulo 2^64; the multiplier is that of Knuth's MMIX generator.
        hashes = hashes[:-1] * np.uint64(6364136223846793005) + characters[n - 1 :]
        _, counts = np.unique(hashes, return_counts=True)
        if n in _LARGEST_TOP:
            top[n] = float(counts.max() / counts.sum())
        else:
            repeated[n] = float(np.mean(counts > 1))
    return top, repeated


def fault_of(text: str, limits: JapaneseQualityConfig) -> str | None:
    """Returns the rule that a text breaks; None if it breaks none."""
    if len(text) < limits.minimum_characters:
        return "short"
    hiragana, katakana, other = (
        sum(map(len, script.findall(text))) for script in (_HIRAGANA, _KATAKANA, _OTHER)
    )
    japanese = hiragana + katakana + other
    if japanese < limits.japanese * len(re.sub(r"\s", "", text)):
        return "little Japanese"
    if hiragana < limits.hiragana * japanese:
        return "little hiragana"
    if katakana > limits.katakana * japanese:
        return "much katakana"
    sentences = [part.strip() for part in _SENTENCE.findall(text) if _HIRAGANA.search(part)]
    mean = sum(map(len, sentences)) / max(len(sentences), 1)
    if mean < limits.shortest_sentences:
        return "short sentences"
    if mean > limits.longest_sentences:
        return "long sentences"
    if max(map(len, sentences), default=0) > limits.longest_sentence:
        return "a long sentence"
    if sum(part.endswith(("…", "・", "...")) for part in sentences) > (
        limits.ellipses * len(sentences)
    ):
        return "ellipses"
    lines = [line for line in text.split("\n") if line.strip()]
    for name, parts in (("lines", lines), ("sentences", sentences)):
        share, of_characters = repeated_parts(parts)
        if share > _LARGEST_REPEATED_SHARE or of_characters > _LARGEST_REPEATED_CHARACTERS:
            return f"repeated {name}"
    top, repeated = repeated_ngrams(text)
    for n, largest in _LARGEST_TOP.items():
        if top.get(n, 0) > largest:
            return f"frequent {n}-gram"
    for n, share in repeated.items():
        if share > limits.repeated_ngrams - 0.01 * (n - 5):
            return f"repeated {n}-grams"
    return None


class JapaneseQualityFilter(BaseFilter):
    """Keeps documents that break no rule."""

    name = "Japanese quality"

    def __init__(self, plan: Plan):
        super().__init__(plan.dropped("japanese_quality"))
        self.limits = plan.config.japanese_quality

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Returns whether a document stays, or why not."""
        fault = fault_of(doc.text, self.limits)
        return (False, fault) if fault else True


def add_japanese_quality(plan: Plan) -> None:
    """Drops documents of other scripts, of odd sentences, and with repetition."""
    plan.add(JapaneseQualityFilter(plan))
