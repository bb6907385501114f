import numpy as np
import pytest

from lm_jax.data import TokenizerConfig, texts_of, tokenize
from lm_jax.data.cache import load_split, save_split
from lm_jax.data.documents import (
    TokenizedDocuments,
    consecutive,
    joined,
    ranges,
    sample_of,
    sample_of_sources,
)
from lm_jax.data.tokenizers import train_tokenizer

TEXTS = [f"{number} " + "text " * number for number in range(1, 40)]
BYTES = train_tokenizer(TokenizerConfig("byte"), TEXTS)
SPLIT = tokenize(BYTES, TEXTS)


def test_a_sample_holds_whole_documents_and_their_sizes():
    documents, numbers, _ = sample_of(SPLIT, 600, BYTES)
    assert texts_of(BYTES, documents) == [TEXTS[number] for number in numbers]
    assert documents.tokens[0] == documents.tokens[-1] == BYTES.end_of_document
    assert 400 < documents.starts[-1] <= 600
    for name in ("characters", "bytes", "words"):
        np.testing.assert_array_equal(getattr(documents, name), getattr(SPLIT, name)[numbers])


def test_a_smaller_sample_is_part_of_a_larger_one():
    numbers = [set(sample_of(SPLIT, most, BYTES).numbers) for most in (50, 300, 900, 2000)]
    assert all(small < large for small, large in zip(numbers, numbers[1:], strict=False))


def test_a_split_that_is_small_enough_is_its_own_sample():
    assert sample_of(SPLIT, int(SPLIT.starts[-1]), BYTES) == (SPLIT, None, {})


def test_parts_in_a_row_joined_are_the_whole():
    parts = [consecutive(SPLIT, range(0, 5)), consecutive(SPLIT, range(5, 39))]
    assert texts_of(BYTES, parts[1]) == TEXTS[5:]
    for found, whole in zip(joined(parts), SPLIT, strict=True):
        np.testing.assert_array_equal(found, whole)


def test_every_source_is_sampled_by_its_share_and_a_small_one_at_least_in_part():
    texts = ["a" * 900] * 100 + ["b" * 9000] + ["c" * 900] * 200
    split, sources = tokenize(BYTES, texts), {"a": 100, "none": 0, "b": 1, "c": 200}
    assert ranges(sources) == {"a": range(100), "b": range(100, 101), "c": range(101, 301)}
    documents, numbers, found = sample_of_sources(sample_of, split, sources, 90_000, BYTES)
    assert list(found) == ["a", "b", "c"] and sum(found.values()) == len(numbers)
    held = texts_of(BYTES, documents)
    assert [text[0] for text in held] == sorted(text[0] for text in held)
    assert found["a"] == 90_000 * 90_100 // int(split.starts[-1]) // 901
    assert found["c"] == pytest.approx(2 * found["a"], abs=1)
    assert held[found["a"]] == "b" * 4095  # its beginning
    assert [texts[number][0] for number in numbers] == [text[0] for text in held]
    assert sample_of_sources(sample_of, split, sources, 10**6, BYTES) == (split, None, sources)


@pytest.mark.parametrize("kind", ["byte", "word"])
def test_of_one_long_document_the_beginning_is_taken_if_its_characters_can_be_counted(kind):
    text = "日本語 words " * 50
    tokenizer = train_tokenizer(TokenizerConfig(kind, 300), [text])
    split = tokenize(tokenizer, [text])
    documents, numbers, _ = sample_of(split, 35, tokenizer)  # in the midst of a character
    assert numbers.tolist() == [0]
    if kind == "word":
        assert documents.starts[-1] == split.starts[-1]
        return
    (found,) = texts_of(tokenizer, documents)
    assert found == text[:20] and documents.starts[-1] == 33
    sizes = (len(found), len(found.encode()), len(found.split()))
    assert tuple(int(counts[0]) for counts in documents[2:]) == sizes


_SIZES = np.array([1, 2])
_WHOLE = TokenizedDocuments(
    np.array([256, 97, 256, 98, 99, 256], np.uint16), np.array([0, 2, 5]), _SIZES, _SIZES, _SIZES
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": np.zeros(6)}, "are no lists of integers"),
        ({"tokens": np.zeros((6, 1), int)}, "are no lists of integers"),
        ({"starts": np.array([0, 2, 7])}, "are not of the same documents"),
        ({"starts": np.array([1, 2, 5])}, "are not of the same documents"),
        ({"starts": np.array([0, 7, 5])}, "starts that do not rise"),
        ({"starts": np.zeros(0, int)}, "are not of the same documents"),
        ({"words": np.array([1])}, "are not of the same documents"),
    ],
)
def test_a_split_whose_arrays_do_not_belong_together_is_not_read(changes, message, tmp_path):
    save_split(_WHOLE, tmp_path, "whole")
    assert load_split(TokenizedDocuments, tmp_path, "whole").starts.tolist() == [0, 2, 5]
    save_split(_WHOLE._replace(**changes), tmp_path, "other")
    with pytest.raises(ValueError, match=f"other_.* {message}"):
        load_split(TokenizedDocuments, tmp_path, "other")
