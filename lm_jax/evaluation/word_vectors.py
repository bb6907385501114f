"""Measures word vectors: neighbors, analogies, and correlation with human judgements."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm_jax.errors import UserError


class WordVectors(NamedTuple):
    """Words and their unit vectors [V, d], most frequent word first."""

    words: list[str]
    vectors: np.ndarray
    rows: dict[str, int]

    def row(self, word: str) -> int:
        """Returns the row of a word. Raises UserError if it has none."""
        if word not in self.rows:
            close = difflib.get_close_matches(word.lower(), self.words, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "give a word of the training text"
            raise UserError(
                f"{word!r} is not among the {len(self.words):,} words of this model, which leaves "
                f"out rare ones (data.tokenizer.minimum_count, vocab_size); {hint}"
            )
        return self.rows[word]


def word_vectors(words: Sequence[str], table: np.ndarray) -> WordVectors:
    """Returns the unit vectors of words, from a table [V, d]."""
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    unit = table / np.maximum(lengths, 1e-12)
    return WordVectors(list(words), unit, {word: row for row, word in enumerate(words)})


def nearest(
    vectors: WordVectors, plus: Sequence[str], minus: Sequence[str] = (), count: int = 5
) -> list[tuple[str, float]]:
    """Returns the words with the largest cosine to sum(plus) - sum(minus), best first.

    With two words in `plus` and one in `minus` this is 3CosAdd (Mikolov et al. 2013): king - man +
    woman. The given words are left out.

    Raises:
      UserError: a given word has no vector.
    """
    added, taken = [vectors.row(w) for w in plus], [vectors.row(w) for w in minus]
    query = vectors.vectors[added].sum(axis=0) - vectors.vectors[taken].sum(axis=0)
    cosines = vectors.vectors @ query / max(float(np.linalg.norm(query)), 1e-12)
    cosines[added + taken] = -np.inf
    order = np.argsort(-cosines, kind="stable")[: min(count, np.isfinite(cosines).sum())]
    return [(vectors.words[row], float(cosines[row])) for row in order]


class Analogies(NamedTuple):
    """The analogies of one section of a file."""

    right: int
    asked: int  # all of their words have vectors
    total: int


def analogy_accuracy(vectors: WordVectors, path: str | Path) -> dict[str, Analogies]:
    """Returns for each section the number of correct analogies, of those asked, and of all.

    The file has the format of questions-words.txt: lines `a b c d` (b is to a as d is to c) under
    headings `: section`. Words are lower-cased; analogies with a word that has no vector are
    skipped.

    Raises:
      UserError: the file cannot be read, or a line is no analogy.
    """
    path = Path(path)
    results: dict[str, Analogies] = {}
    section = ""
    for number, line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip()
            continue
        words = line.lower().split()
        if len(words) != 4:
            raise UserError(f"{path}:{number}: {line[:60]!r} is not an analogy of four words")
        right, asked, total = results.get(section, Analogies(0, 0, 0))
        results[section] = Analogies(right, asked, total + 1)
        if not all(word in vectors.rows for word in words):
            continue
        a, b, c, expected = words
        found = [word for word, _ in nearest(vectors, [b, c], [a], count=1)]
        results[section] = Analogies(right + (found == [expected]), asked + 1, total + 1)
    return results


def similarity_correlation(vectors: WordVectors, path: str | Path) -> tuple[float, int, int]:
    """Returns Spearman's correlation of cosines with judgements, the pairs asked, and all pairs.

    The file has the format of WordSim-353: lines `word<TAB>word<TAB>score`; `#` starts a comment.

    Raises:
      UserError: the file cannot be read, a line has another format, fewer than 3 pairs have
        vectors, or all scores or cosines are equal.
    """
    path = Path(path)
    from scipy.stats import spearmanr  # takes a second to import

    cosines, scores, count = [], [], 0
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        try:
            one, other, score = line.lower().split("\t")[:3]
            value = float(score)
            if not math.isfinite(value):
                raise ValueError(score)
        except ValueError:
            raise UserError(f"{path}:{number}: {line[:60]!r} is not word, word, score") from None
        count += 1
        if one in vectors.rows and other in vectors.rows:
            pair = vectors.vectors[[vectors.row(one), vectors.row(other)]]
            cosines.append(float(pair[0] @ pair[1]))
            scores.append(value)
    if len(scores) < 3:
        raise UserError(f"{path}: only {len(scores)} of {count} pairs are among the words")
    if len(set(cosines)) == 1 or len(set(scores)) == 1:
        raise UserError(
            f"{path}: the scores or the cosines of its {len(scores)} pairs are all equal, so that "
            "there is no correlation of ranks; give other pairs"
        )
    return float(spearmanr(cosines, scores).statistic), len(scores), count


def correlation_standard_error(correlation: float, pairs: int) -> float | None:
    """Returns the standard error of Spearman's correlation; None below four pairs.

    Bonett and Wright 2000, Psychometrika 65, eq. 4, brought back from Fisher's transformation.
    """
    if pairs < 4:
        return None
    return (1 - correlation**2) * math.sqrt((1 + correlation**2 / 2) / (pairs - 3))


def _lines(path: Path) -> list[tuple[int, str]]:
    """Returns the lines of a file that are not blank, each with its number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
