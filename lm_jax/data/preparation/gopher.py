"""Gopher's rules of quality and of repetition (Rae et al., 2021, A.1.1), as datatrove sets them.

datatrove's filters look at each word several times in Python. Here each different word is judged
once, and n-grams are compared as arrays of hashes. Documents and reasons are the same.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.text import PUNCTUATION_SET

from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.words import WORDS

_PUNCTUATION = "".join(sorted(PUNCTUATION_SET))
_MULTIPLIER = np.uint64(6364136223846793005)  # that of Knuth's MMIX generator

Verdict = bool | tuple[bool, str]


class GopherQuality(GopherQualityFilter):
    """Keeps documents by their numbers of words, symbols, bullets and stop words."""

    def filter(self, doc: Document) -> Verdict:
        """Returns whether a document stays, or why not."""
        text = doc.text
        counts = Counter(self.language.word_tokenize(text))
        fault = self._fault_of_lengths(counts) or self._fault_of_symbols(text, counts.total())
        if fault:
            return False, fault
        letters = sum(count for word, count in counts.items() if _has_letter(word))
        smallest = self.max_non_alpha_words_ratio  # datatrove's name says the opposite
        if smallest and letters / counts.total() < smallest:
            return False, "gopher_below_alpha_threshold"
        if self.min_stop_words and len(self.stop_words & counts.keys()) < self.min_stop_words:
            return False, "gopher_enough_stop_words"
        return True

    def _fault_of_lengths(self, counts: Counter[str]) -> str | None:
        judged = {word: count for word, count in counts.items() if word.strip(_PUNCTUATION)}
        number = sum(judged.values())
        if self.min_doc_words and number < self.min_doc_words:
            return "gopher_short_doc"
        if self.max_doc_words and number > self.max_doc_words:
            return "gopher_long_doc"
        mean = sum(len(word) * count for word, count in judged.items()) / number if number else None
        if mean and self.min_avg_word_length and mean < self.min_avg_word_length:
            return "gopher_below_avg_threshold"
        if mean and self.max_avg_word_length and mean > self.max_avg_word_length:
            return "gopher_above_avg_threshold"
        return None

    def _fault_of_symbols(self, text: str, num_words: int) -> str | None:
        largest = self.max_symbol_word_ratio
        if largest and text.count("#") / num_words > largest:
            return "gopher_too_many_hashes"
        ellipses = text.count("...") + text.count("…")
        if largest and ellipses / num_words > largest:
            return "gopher_too_many_ellipsis"
        lines = text.splitlines()
        largest, bullets = self.max_bullet_lines_ratio, text.count("•") + text.count("-")
        # A text with so few signs has no more lines that begin with them.
        if largest and bullets / len(lines) > largest:
            if _share(lines, lambda line: line.lstrip().startswith(("•", "-"))) > largest:
                return "gopher_too_many_bullets"
        largest = self.max_ellipsis_lines_ratio
        if largest and ellipses / len(lines) > largest:
            if _share(lines, lambda line: line.rstrip().endswith(("...", "…"))) > largest:
                return "gopher_too_many_end_ellipsis"
        return None


def _share(lines: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, lines)) / len(lines)


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


class GopherRepetition(GopherRepetitionFilter):
    """Drops documents that repeat lines, paragraphs or n-grams."""

    def filter(self, doc: Document) -> Verdict:
        """Returns whether a document stays, or why not."""
        text = doc.text
        if not text:
            return False, "empty"
        for name, parts, largest, largest_characters in (
            (
                "para",
                self.paragraph_exp.split(text.strip()),
                self.dup_para_frac,
                self.dup_para_char_frac,
            ),
            ("line", self._line_splitter.split(text), self.dup_line_frac, self.dup_line_char_frac),
        ):
            repeated, characters = repeated_parts(parts)
            if largest and repeated / len(parts) > largest:
                return False, f"dup_{name}_frac"
            if largest_characters and characters / len(text) > largest_characters:
                return False, f"dup_{name}_char_frac"
        ngrams = Ngrams(self.language.word_tokenize(text))
        for n, largest in self.top_n_grams:
            if ngrams.most_frequent(n, least=largest * len(text)) / len(text) > largest:
                return False, f"top_{n}_gram"
        for n, largest in self.dup_n_grams:
            if ngrams.repeated(n, least=largest * len(text)) / len(text) > largest:
                return False, f"duplicated_{n}_n_grams"
        return True


def repeated_parts(parts: Sequence[str]) -> tuple[int, int]:
    """Returns the number of parts that came before, and their characters."""
    different = set(parts)
    if len(different) == len(parts):
        return 0, 0
    return len(parts) - len(different), sum(map(len, parts)) - sum(map(len, different))


class Ngrams:
    """The n-grams of a text's words, by hashes of 64 bits that are rolled from n to n + 1."""

    def __init__(self, words: Sequence[str]):
        self._words = words
        self._ends = np.cumsum([0, *map(len, words)])  # characters before each word
        self._size = 1
        self._most_repeated = float("inf")  # characters in n-grams so far, or longer ones
        # Python's hash of a string differs between processes; only equal ones are looked for.
        self._hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
        self._last = self._hashes

    def _of(self, n: int) -> np.ndarray:
        """Returns the hashes of n-grams; n must not fall from call to call."""
        while self._size < n and len(self._last):
            following = self._hashes[self._size :]
            self._last = self._last[: len(following)] * _MULTIPLIER + following
            self._size += 1
        return self._last

    def _characters(self, n: int) -> np.ndarray:
        return self._ends[n:] - self._ends[:-n]

    def most_frequent(self, n: int, least: float) -> int:
        """Returns the characters of all copies of the most frequent n-gram, spaces included.

        The first one, where several are as frequent; 0, if it is certainly less than `least`.
        """
        hashes = self._of(n)
        if not len(hashes):
            return 0
        characters = self._characters(n) + (n - 1)
        values, counts = _counts(hashes)
        largest = int(counts.max())
        if largest * int(characters.max()) < least:
            return 0
        first = np.argmax(np.isin(hashes, values[counts == largest]))
        return largest * int(characters[first])

    def repeated(self, n: int, least: float) -> int:
        """Returns the characters in n-grams that came before, none of which overlap.

        0, if it is certainly less than `least`. Where a longer n-gram repeats, its beginning does.
        """
        if self._most_repeated < least:
            return 0
        hashes = self._of(n)
        values, counts = _counts(hashes)
        if not len(hashes) or len(values) == len(hashes):
            self._most_repeated = 0
            return 0
        again = np.isin(hashes, values[counts > 1])
        characters = self._characters(n)
        # All that is in them, even where they overlap, and the first copy with them.
        inside = np.convolve(again, np.ones(n))[: len(self._words)] > 0
        self._most_repeated = int(np.diff(self._ends)[inside].sum())
        if self._most_repeated < least:
            return 0
        seen: set[int] = set()
        total = position = 0
        found, sizes = hashes.tolist(), characters.tolist()
        while position < len(found):
            if found[position] in seen:
                total += sizes[position]
                position += n
            else:
                seen.add(found[position])
                position += 1
        return total


def _counts(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different hashes in rising order, and how often each occurs."""
    ordered = np.sort(hashes)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))[: len(hashes)]
    return ordered[starts], np.diff(np.append(starts, len(hashes)))


def add_gopher_repetition(plan: Plan) -> None:
    """Drops documents that repeat lines, paragraphs or n-grams (Gopher, table A1)."""
    plan.add(
        GopherRepetition(
            language=WORDS[plan.config.language], exclusion_writer=plan.dropped("gopher_repetition")
        )
    )


def add_gopher_quality(plan: Plan) -> None:
    """Drops documents by their numbers of words, symbols, bullets and stop words."""
    threshold = plan.config.gopher_quality
    plan.add(
        GopherQuality(
            min_doc_words=threshold.minimum_words,
            max_doc_words=threshold.maximum_words,
            min_stop_words=threshold.minimum_stop_words,
            language=WORDS[plan.config.language],
            exclusion_writer=plan.dropped("gopher_quality"),
        )
    )
