import itertools
import lzma
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from lm_jax.baselines import _symbols, baselines, kneser_ney_nats
from lm_jax.data.embedded import python_reference

TRAIN = ["the cat sat on the mat", "the dog sat", "a cat and a dog sat on a log " * 3, "mmm"]
TEST = ["the cat and the dog", "a mat", ""]
ALPHABET = sorted(set("".join(TRAIN)))


def by_hand(order, outcomes):
    """Chen & Goodman's recursion with dictionaries: p(symbol, context)."""
    tables = {}
    for n in range(order, 0, -1):
        if n == order:
            table = Counter()
            for text in TRAIN:
                symbols = [0] * (order - 1) + _symbols(text, ALPHABET).tolist()
                table.update(
                    tuple(symbols[i - n + 1 : i + 1]) for i in range(order - 1, len(symbols))
                )
        else:
            extensions, events = defaultdict(set), Counter()
            for gram, count in full(n + 1, order).items():
                extensions[gram[1:]].add(gram[0])
                events[gram[1:]] += count
            table = {
                gram: events[gram] if n > 1 and gram[0] == 0 else len(left)
                for gram, left in extensions.items()
            }
        tables[n] = table
    discounts = {}
    for n, table in tables.items():
        n1, n2, n3, n4 = (sum(count == k for count in table.values()) for k in (1, 2, 3, 4))
        if not (n1 and n2):
            discounts[n] = [0, 0.5, 0.5, 0.5]
            continue
        y = n1 / (n1 + 2 * n2)
        one, two = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2
        three = 3 - 4 * y * n4 / n3 if n3 else two
        discounts[n] = [0, one, *(d if d > 0 else one for d in (two, three))]

    def probability(symbol, context):
        if context is None:
            return 1 / outcomes
        n = len(context) + 1
        lower = probability(symbol, context[1:] if context else None)
        rows = {gram[-1]: count for gram, count in tables[n].items() if gram[:-1] == context}
        if not rows:
            return lower
        total = sum(rows.values())
        count = rows.get(symbol, 0)
        left = sum(discounts[n][min(c, 3)] for c in rows.values()) / total
        return (count - discounts[n][min(count, 3)]) / total + left * lower

    return probability


def full(n, order):
    """Counts of all events with their n - 1 predecessors."""
    table = Counter()
    for text in TRAIN:
        symbols = [0] * (order - 1) + _symbols(text, ALPHABET).tolist()
        table.update(tuple(symbols[i - n + 1 : i + 1]) for i in range(order - 1, len(symbols)))
    return table


def ids(texts):
    return [_symbols(text, ALPHABET) for text in texts]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_kneser_ney_equals_dictionaries(order):
    outcomes = len(ALPHABET) + 2
    probability, nats = by_hand(order, outcomes), 0.0
    for symbols in ids(TEST):
        padded = [0] * (order - 1) + symbols.tolist()
        for i in range(order - 1, len(padded)):
            nats -= math.log(probability(padded[i], tuple(padded[i - order + 1 : i])))
    assert kneser_ney_nats(ids(TRAIN), ids(TEST), order, outcomes) == pytest.approx(nats, rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one(order):
    outcomes = len(ALPHABET) + 2
    for context in itertools.islice(itertools.product(range(2, 9), repeat=order - 1), 20):
        total = 0.0
        for symbol in range(1, outcomes + 1):
            both = kneser_ney_nats(ids(TRAIN), [np.array([*context, symbol])], order, outcomes)
            only = (
                kneser_ney_nats(ids(TRAIN), [np.array(context, int)], order, outcomes)
                if context
                else 0
            )
            total += math.exp(only - both)
        assert total == pytest.approx(1, rel=1e-9)


def test_the_embedded_corpus_costs_what_counting_should():
    texts = python_reference()
    found = baselines(texts[:70], texts[70:])
    assert found["uniform"] > found["character unigram"] > found["character bigram"]
    assert 3.0 < found["character bigram"] < 4.2
    joined = "".join(texts[70:])
    expected = 8 * len(lzma.compress(joined.encode(), preset=9)) / len(joined)
    assert found["xz -9"] == pytest.approx(expected)


def test_an_unseen_character_costs_its_place_among_all_code_points():
    known, unseen = baselines(["aab" * 50], ["aab"]), baselines(["aab" * 50], ["aa日"])
    assert unseen["uniform"] - known["uniform"] == pytest.approx(math.log2(0x110000 - 2) / 3)


def test_repetitive_text_costs_finitely_many_bits():
    # Nearly every context occurs three times or more, and what is new costs what is left to it.
    draw = random.Random(0).choice
    ten = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
    words = " ".join(draw(ten) for _ in range(2000))
    found = baselines([words], [words[:100] + "alpbet"])
    assert all(map(math.isfinite, found.values())), found


def test_a_large_alphabet_is_counted_with_shorter_contexts():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 6206)))
    assert "character 5-gram" in baselines([text[1:]], [text[:9]])
    assert "character 4-gram" in baselines([text], [text[:9]])
