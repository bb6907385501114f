import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.evaluation.word_vectors import (
    analogy_accuracy,
    correlation_standard_error,
    nearest,
    similarity_correlation,
    word_vectors,
)

# Gender on one axis, royalty on another, fruit on a third.
TABLE = {
    "man": [1, 0, 0],
    "woman": [-1, 0, 0],
    "king": [1, 2, 0],
    "queen": [-1, 2, 0],
    "apple": [0, 0, 3],
    "pear": [0, 0.1, 2],
}
VECTORS = word_vectors(list(TABLE), np.array(list(TABLE.values()), float))


def test_the_nearest_words_have_the_largest_cosine():
    assert [word for word, _ in nearest(VECTORS, ["apple"], count=1)] == ["pear"]
    word, cosine = nearest(VECTORS, ["king", "woman"], ["man"], count=1)[0]
    assert word == "queen" and 0.8 < cosine <= 1


def test_analogies_are_counted_by_section_and_unknown_words_left_out(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(": royalty\nMan King woman queen\nman king woman pear\n: else\na b c d\n")
    assert analogy_accuracy(VECTORS, path) == {"royalty": (1, 2, 2), "else": (0, 0, 1)}
    path.write_text("three words only\n")
    with pytest.raises(UserError, match="questions.txt:1: 'three words only' is not an analogy"):
        analogy_accuracy(VECTORS, path)


def test_similarities_are_correlated_by_rank(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("# a\nApple\tpear\t9\nman\tking\t5\nman\twoman\t1\nman\tship\t3\n")
    assert similarity_correlation(VECTORS, path) == (pytest.approx(1.0), 3, 4)
    path.write_text("apple pear 9\n")
    with pytest.raises(UserError, match="is not word, word, score"):
        similarity_correlation(VECTORS, path)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("man\tking\t1\nman\tship\t2\nman\twoman\tnan\n", ":3: .* is not word, word, score"),
        ("man\tking\t1\nman\twoman\t1\nman\tapple\t1\n", "its 3 pairs are all equal"),
        ("man\tking\t1\nman\tking\t2\nman\tking\t3\n", "its 3 pairs are all equal"),
    ],
)
def test_judgements_without_an_order_have_no_correlation(pairs, message, tmp_path):
    (tmp_path / "pairs.tsv").write_text(pairs)
    with pytest.raises(UserError, match=message):
        similarity_correlation(VECTORS, tmp_path / "pairs.tsv")


def test_an_analogy_of_all_words_of_a_vocabulary_has_no_answer(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("man king woman man\n")
    few = word_vectors(list(TABLE)[:3], np.eye(3))
    assert analogy_accuracy(few, path) == {"": (0, 1, 1)}


def test_the_error_of_a_correlation_is_that_of_repeated_samples():
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, 2_000, 100))
    ranks = (np.argsort(np.argsort(each), axis=1) - 49.5 for each in (x, x + 1.5 * noise))
    one, other = ranks
    found = (one * other).sum(axis=1) / (one**2).sum(axis=1)
    expected = correlation_standard_error(found.mean(), 100)
    assert expected == pytest.approx(found.std(), rel=0.06) and 0.05 < expected < 0.1
    assert correlation_standard_error(0.5, 3) is None


def test_an_unknown_word_is_refused():
    with pytest.raises(UserError, match="'ship' is not among the 6 words"):
        nearest(VECTORS, ["ship"])
    with pytest.raises(UserError, match="did you mean 'king'?"):
        nearest(VECTORS, ["KING"])


def test_the_words_asked_about_are_never_among_the_nearest():
    found = [word for word, _ in nearest(VECTORS, ["king"], ["man"], count=10)]
    assert sorted(found) == ["apple", "pear", "queen", "woman"]


def test_a_wrong_line_is_named_by_its_number_in_the_file(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("\n\nthree words only\n")
    with pytest.raises(UserError, match="questions.txt:3: "):
        analogy_accuracy(VECTORS, path)
