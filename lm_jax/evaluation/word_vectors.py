"""What word vectors know: neighbours, analogies, and human judgements of similarity."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm_jax.errors import UserError


class WordVectors(NamedTuple):
    """Words and their unit vectors [V, d], the most frequent first."""

    words: list[str]
    vectors: np.ndarray
    rows: dict[str, int]

    def row(self, word: str) -> int:
        """The row of a word. Raises UserError if it has none."""
        if word not in self.rows:
            raise UserError(f"{word!r} is not among the {len(self.words):,} words of this model")
        return self.rows[word]


def word_vectors(words: Sequence[str], table: np.ndarray) -> WordVectors:
    """The vectors of words, from a table [V, d] of any lengths."""
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    unit = table / np.maximum(lengths, 1e-12)
    return WordVectors(list(words), unit, {word: row for row, word in enumerate(words)})


def nearest(
    vectors: WordVectors, plus: Sequence[str], minus: Sequence[str] = (), count: int = 5
) -> list[tuple[str, float]]:
    """The words with the largest cosine to the sum of some words less others, best first.

    With two added and one taken away it is 3CosAdd (Mikolov et al. 2013): king - man + woman. The
    given words are left out. Raises UserError if one of them has no vector.
    """
    added, taken = [vectors.row(w) for w in plus], [vectors.row(w) for w in minus]
    query = vectors.vectors[added].sum(axis=0) - vectors.vectors[taken].sum(axis=0)
    cosines = vectors.vectors @ query / max(float(np.linalg.norm(query)), 1e-12)
    cosines[added + taken] = -np.inf
    order = np.argsort(-cosines, kind="stable")[: min(count, np.isfinite(cosines).sum())]
    return [(vectors.words[row], float(cosines[row])) for row in order]


def analogy_accuracy(vectors: WordVectors, path: Path) -> dict[str, tuple[int, int]]:
    """How many analogies of each section come out exactly, and how many could be asked.

    The file holds lines `a b c d` (b is to a as d is to c) under headings `: section`, as
    questions-words.txt; those with a word that has no vector are left out, in any letter case.

    Raises:
      UserError: the file cannot be read so.
    """
    results: dict[str, tuple[int, int]] = {}
    section = ""
    for number, line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip()
            continue
        words = line.lower().split()
        if len(words) != 4:
            raise UserError(f"{path}:{number}: {line[:60]!r} is not an analogy of four words")
        if not all(word in vectors.rows for word in words):
            continue
        a, b, c, expected = words
        right, asked = results.get(section, (0, 0))
        found = nearest(vectors, [b, c], [a], count=1)[0][0]
        results[section] = right + (found == expected), asked + 1
    return results


def similarity_correlation(vectors: WordVectors, path: Path) -> tuple[float, int, int]:
    """Spearman's correlation of cosines with judgements; pairs that could be asked, and all.

    The file holds lines `word<TAB>word<TAB>score`, as WordSim-353; `#` opens a comment.

    Raises:
      UserError: the file cannot be read so, or fewer than 3 of its pairs have vectors.
    """
    from scipy.stats import spearmanr  # a second to import: not at every start

    cosines, scores, count = [], [], 0
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        try:
            one, other, score = line.lower().split("\t")[:3]
            value = float(score)
        except ValueError:
            raise UserError(f"{path}:{number}: {line[:60]!r} is not word, word, score") from None
        count += 1
        if one in vectors.rows and other in vectors.rows:
            pair = vectors.vectors[[vectors.row(one), vectors.row(other)]]
            cosines.append(float(pair[0] @ pair[1]))
            scores.append(value)
    if len(scores) < 3:
        raise UserError(f"{path}: only {len(scores)} of {count} pairs are among the words")
    return float(spearmanr(cosines, scores).statistic), len(scores), count


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, each with its number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
