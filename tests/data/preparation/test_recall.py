"""A small run of `benchmarks.preparation_recall`, whose large one docs/results/data.md shows."""

import random

from benchmarks.planted_faults import near_rows, redaction_rows
from lm_jax.data.preparation.config import NearDuplicatesConfig


def texts(count: int, words: int) -> list[str]:
    """Returns texts of words that no other text has in this order."""
    rng = random.Random(0)
    known = ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(2000)]
    return [" ".join(rng.choices(known, k=words)) for _ in range(count)]


def test_redaction_finds_what_was_planted_and_little_else():
    rows = redaction_rows(random.Random(1), texts(20, 80))
    assert len(rows) == 5
    for row in rows:
        assert row["recall"] >= 0.98 and row["precision"] >= 0.99, row


def test_near_duplicates_are_found_at_a_similarity_of_0_8():
    rows = near_rows(random.Random(2), texts(120, 200), NearDuplicatesConfig())
    at_similarity = rows[1]
    assert at_similarity["planted as"] == "Jaccard 0.80 to 0.82"
    assert at_similarity["planted"] >= 25
    assert at_similarity["recall"] >= 0.98
    assert at_similarity["precision"] >= 0.95
