import lzma
import math
import random

import pytest

from lm_jax.data.embedded import python_reference
from lm_jax.evaluation.baselines import baselines
from tests.models.ngram.test_model import ByHand

TRAIN = ["the cat sat on the mat", "the dog sat", "a cat and a dog sat on a log " * 3, "mmm"]
TEST = ["the cat and the dog", "a mat", "", "a very mad log of 日本", "on the mat " * 60]
ALPHABET = sorted(set("".join(TRAIN)))


def test_n_gram_bits_equal_those_of_counts_in_dictionaries():
    found = baselines(TRAIN, TEST)
    unseen = sum(character not in ALPHABET for text in TEST for character in text)
    unseen_bits = unseen * math.log2(0x110000 - len(ALPHABET))
    characters = sum(map(len, TEST))
    for order, name in ((1, "unigram"), (2, "bigram"), (5, "5-gram")):
        model = ByHand(TRAIN, order, len(ALPHABET) + 2)
        nats = sum(sum(model.nats(text)) for text in TEST)
        expected = (nats / math.log(2) + unseen_bits) / characters
        assert found[f"character {name}"] == pytest.approx(expected, rel=1e-6)
    outcomes = len(ALPHABET) + 2
    expected = ((characters + len(TEST)) * math.log2(outcomes) + unseen_bits) / characters
    assert found["uniform"] == pytest.approx(expected)


def test_text_too_short_for_a_5_gram_is_counted_as_far_as_it_goes():
    found = baselines(["a", "ab"], ["ab", "b"])
    four_grams = ByHand(["a", "ab"], 4, 4)
    nats = sum(four_grams.nats("ab")) + sum(four_grams.nats("b"))
    assert found["character 5-gram"] == pytest.approx(nats / math.log(2) / 3, rel=1e-6)


def test_n_gram_bits_of_the_embedded_corpus():
    texts = python_reference()
    found = baselines(texts[:70], texts[70:])
    assert found["uniform"] > found["character unigram"] > found["character bigram"]
    assert 3.0 < found["character bigram"] < 4.2
    assert 1.5 < found["character 5-gram"] < 2.4
    joined = "".join(texts[70:])
    expected = 8 * len(lzma.compress(joined.encode(), preset=9)) / len(joined)
    assert found["xz -9"] == pytest.approx(expected)


def test_an_unseen_character_costs_the_bits_of_a_code_point():
    known, unseen = baselines(["aab" * 50], ["aab"]), baselines(["aab" * 50], ["aa日"])
    assert unseen["uniform"] - known["uniform"] == pytest.approx(math.log2(0x110000 - 2) / 3)


def test_repetitive_text_costs_finitely_many_bits():
    # Nearly every context occurs three times or more, so little probability is left for new ones.
    draw = random.Random(0).choice
    ten = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
    words = " ".join(draw(ten) for _ in range(2000))
    found = baselines([words], [words[:100] + "alpbet"])
    assert all(map(math.isfinite, found.values())), found


def test_a_large_alphabet_has_5_grams_too():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 7000)))
    assert math.isfinite(baselines([text], [text[:9]])["character 5-gram"])
