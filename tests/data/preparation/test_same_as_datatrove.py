"""Our faster filters and signatures give what datatrove's give, and redaction misses nothing."""

import random

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.text import TextNormConfig

from lm_jax.data.preparation.gopher import GopherQuality, GopherRepetition
from lm_jax.data.preparation.quality import C4Quality, FineWebQuality
from lm_jax.data.preparation.redaction import RULES, matches
from lm_jax.data.preparation.shingles import Signatures
from lm_jax.data.preparation.words import WORDS
from tests.data.preparation.corpora import JAPANESE, NOUNS

PLAIN = [*NOUNS, "the", "of", "and", "with", "to", "Größe", "naïve", "日本語", "١٢٣", "3,141.59"]
SIGNS = ["#", "...", "…", "•", "-", "—", "。", "[12]", "(?)", '"', "②", "12", "İ", "e\u0301"]
MARKS = ["JavaScript", "{", "lorem[3] ipsum", "Lorem ipsum", "uses cookies", "x" * 1001, "[edit]"]
BREAKS = ["\n", "\n\n", "\n- ", "\n• ", ".\n", " ...\n", "\r\n", "\u2028", " \n \n", "! ", ". "]


def made(rng: random.Random) -> str:
    """Returns a text whose words, signs and line ends come in proportions of its own."""
    shares = [rng.random() ** 3 for _ in range(3)]
    words = rng.sample(PLAIN, rng.randint(2, len(PLAIN)))
    size = rng.choice((3, 40, 300))
    breaks = rng.sample(BREAKS, 3)
    parts = []
    for _ in range(size):
        draw = rng.random()
        parts.append(rng.choice(SIGNS if draw < shares[0] / 3 else words))
        if draw > 1 - shares[1] / 50:
            parts.append(rng.choice(MARKS))
        parts.append(rng.choice(breaks) if rng.random() < shares[2] else " ")
    start = rng.randrange(len(parts))
    copied = parts[start : start + 40] * rng.choice((0, 0, 1, 5))
    return "".join([*parts, *copied]) + "end"


RNG = random.Random(4)
TEXTS = [made(RNG) for _ in range(400)] + [
    JAPANESE,
    "word " * 60,
    "\n\nword\n\n",
    "a\n[1]\n [2] [3]",
]


@pytest.mark.parametrize(
    ("ours", "theirs", "settings", "fewest"),
    [
        (GopherQuality, GopherQualityFilter, {}, 6),
        (GopherQuality, GopherQualityFilter, {"min_doc_words": 2, "max_doc_words": 100}, 7),
        (GopherRepetition, GopherRepetitionFilter, {}, 5),
        (C4Quality, C4QualityFilter, {}, 3),
        (
            C4Quality,
            C4QualityFilter,
            {"filter_no_terminal_punct": False, "min_words_per_line": -1},
            4,
        ),
        (C4Quality, C4QualityFilter, {"filter_curly_bracket": False, "min_num_sentences": 1}, 3),
        (FineWebQuality, FineWebQualityFilter, {}, 5),
        (FineWebQuality, FineWebQualityFilter, {"char_duplicates_ratio": 0.3}, 5),
    ],
)
def test_a_filter_judges_as_the_one_of_datatrove(ours, theirs, settings, fewest):
    mine, their = (kind(language=WORDS["en"], **settings) for kind in (ours, theirs))
    verdicts = set()
    for text in TEXTS:
        first, second = Document(text, "0"), Document(text, "0")
        verdict = mine.filter(first)
        assert verdict == their.filter(second), text
        if verdict is True:
            assert first.text == second.text
        verdicts.add(verdict)
    assert len(verdicts) >= fewest, verdicts  # so that the texts try the rules


def test_a_signature_is_the_one_of_datatrove(tmp_path):
    config = MinhashConfig(
        n_grams=3,
        num_buckets=5,
        hashes_per_bucket=4,
        norm_config=TextNormConfig(norm_unicode_diacritics=False),
    )
    for language in ("en", "ja"):
        mine, their = (
            kind(str(tmp_path), config, language=WORDS[language])
            for kind in (Signatures, MinhashDedupSignature)
        )
        for text in TEXTS[::8] + TEXTS[-4:]:
            shingles = mine.get_shingles(text)
            np.testing.assert_array_equal(shingles, their.get_shingles(text))
            if len(shingles):
                assert mine.get_signature(shingles) == their.get_signature(shingles)
    edges = np.array([0, 1, 2**61 - 1, 2**61, 2**64 - 1], np.uint64)[:, None]
    assert mine.get_signature(edges) == their.get_signature(edges)


PIECES = [
    *"@ @@ . - + ( ) / : _ 1 12 2001 4111 555".split(" "),
    *"jane.doe+x @example.org a@b.co 4111-1111-1111-1111 +1 (212) 555-0123 8.8.8.8".split(" "),
    *"2001:db8:: 2600:1f18::2 +49.30.1234567 212-555-0123 AKIAABCDEFGHIJKLMNOP sk-".split(" "),
    *("a" * 70, "ghp_" + "a1" * 20, " ", "\n", "é", "-----BEGIN A B-----\nx\n-----END A B-----"),
]


def test_redaction_looks_at_every_part_that_may_match():
    rng = random.Random(5)
    found = dict.fromkeys(RULES, 0)
    for _ in range(2000):
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 25)))
        for kind, rule in RULES.items():
            spans = [match.span() for match in matches(rule, text)]
            assert spans == [match.span() for match in rule.pattern.finditer(text)], (kind, text)
            found[kind] += len(spans)
    assert min(found.values()) > 100
