import math

import pytest

from lm_jax.data.embedded import python_reference
from lm_jax.data.tokenizer_config import tokenizer_of
from lm_jax.errors import UserError
from lm_jax.evaluation.tokenizer_comparison import compare_tokenizers


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "texts").mkdir()
    for number, text in enumerate([*python_reference()[:6], "日本語の文書。\n" * 40]):
        (tmp_path / "texts" / f"{number}.txt").write_text(text[:3000])
    return str(tmp_path / "texts")


def test_the_figures_of_bytes_and_of_words_are_known(texts):
    bytes_, words = compare_tokenizers(texts, ["byte", "word:300"])
    assert (bytes_.vocab_size, bytes_.bytes_per_token, bytes_.lossless) == (257, 1.0, True)
    assert bytes_.characters_per_token <= 1
    # A byte of a character of several bytes is a part of it; Japanese has 3 bytes a character.
    multibyte = 1.5 * (1 - bytes_.characters_per_token)
    assert bytes_.partial_share == pytest.approx(multibyte, rel=0.01)
    assert 100 < bytes_.never_used < 256
    assert 1 < bytes_.bits_per_character < 8
    assert (words.lossless, words.bits_per_character) == (False, None)
    assert words.characters_per_token > 2 and words.partial_share == 0


def test_bits_of_a_certain_text_are_those_of_its_unigrams(tmp_path, monkeypatch):
    """Documents of one character: only the character and the end are coded, both nearly surely."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(f"{'a' * 40}{chr(98 + number)}")
    (found,) = compare_tokenizers(f"{tmp_path}/*.txt", ["byte"])
    # The last character was never seen, so that it costs at least a guess among the 257 ids.
    assert math.log2(257 - 16) / 41 < found.bits_per_character < 1.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words:9", "the tokenizer 'words:9' is 'words'; expected one of byte, char"),
        ("huggingface", "'huggingface' is read from files; give huggingface:PATH"),
        ("bpe:0", "give a vocabulary of at least 1"),
        ("bpe:nowhere", "nowhere holds no tokenizer"),
    ],
)
def test_a_tokenizer_that_cannot_be_had_is_refused(texts, name, message):
    with pytest.raises(UserError, match=message):
        list(compare_tokenizers(texts, [name]))


def test_a_name_is_a_kind_with_a_vocabulary_or_a_path():
    assert tokenizer_of("bpe:512").vocab_size == 512
    assert tokenizer_of("huggingface:models/a:b").path == "models/a:b"
