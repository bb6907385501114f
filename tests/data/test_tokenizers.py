import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.data import TokenizerConfig, load_tokenizer
from lm_jax.data.embedded import python_reference
from lm_jax.data.sentencepiece_model import Pieces
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError
from tests.conftest import slow_but

KINDS = ("byte", "char", "bpe", "unigram")
TEXTS = python_reference()[:10]
TOKENIZERS = {kind: train_tokenizer(TokenizerConfig(kind, 600), TEXTS) for kind in KINDS}
# What sentencepiece itself uses, next to any other text.
AWKWARD = st.sampled_from(["\u2581", "\0", "\r\n", "   ", "\t", "<|endoftext|>", "</s>", "<0x41>"])
ANY_TEXT = st.lists(AWKWARD | st.text(st.characters(exclude_categories=["Cs"]))).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(text=ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_decoding_gives_back_the_exact_text(kind, text):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_document not in ids
    assert ids.size == 0 or (0 <= ids.min() and ids.max() < tokenizer.vocab_size)


@given(text=ANY_TEXT, space=st.sampled_from(["", " ", "  "]))
@settings(max_examples=300, deadline=None)
def test_words_merge_as_the_whole_text_does(text, space):
    bpe = TOKENIZERS["bpe"]
    text = space + text.replace("a", " ") + TEXTS[0][:100] + space
    np.testing.assert_array_equal(bpe.encode(text), Pieces(bpe.model).encode([text])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_reads_back_the_same(kind, tmp_path):
    TOKENIZERS[kind].save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded._replace(codec=None) == TOKENIZERS[kind]._replace(codec=None)
    np.testing.assert_array_equal(loaded.encode(TEXTS[0]), TOKENIZERS[kind].encode(TEXTS[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_train_the_same_tokenizer(kind):
    assert train_tokenizer(TokenizerConfig(kind, 600), TEXTS).model == TOKENIZERS[kind].model


def test_bpe_shortens_its_corpus():
    text = TEXTS[0]
    assert len(TOKENIZERS["bpe"].encode(text)) < 0.6 * len(text)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(UserError, match="lone surrogate"):
        TOKENIZERS["bpe"].encode("a\ud800b")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_larger_than_the_corpus_supports_is_refused_with_the_largest(kind):
    told = r"supports at most (\d+): set data.tokenizer.vocab_size=\1 or less"
    with pytest.raises(UserError, match=f"vocab_size=5000; it {told}"):
        train_tokenizer(TokenizerConfig(kind, 5000), ["a few words only " * 9])


@pytest.mark.parametrize(("kind", "smallest"), [("bpe", 261), ("unigram", 261), ("char", 259)])
def test_a_vocabulary_too_small_for_the_characters_is_refused(kind, smallest):
    with pytest.raises(UserError, match=f"need at least {smallest}$"):
        train_tokenizer(TokenizerConfig(kind, 258), ["abc"])


def test_characters_beyond_a_char_vocabulary_are_spelled_in_bytes():
    tokenizer = train_tokenizer(TokenizerConfig("char", 260), ["aaabbc"])
    assert [len(tokenizer.encode(text)) for text in "abc"] == [1, 1, 1]
    assert tokenizer.vocab_size == 260 and tokenizer.decode(tokenizer.encode("abc")) == "abc"


@pytest.mark.parametrize("kind", slow_but(["bpe", "unigram"], "bpe"))
def test_long_text_without_spaces_trains_a_tokenizer(kind):
    syllables = random.Random(0).choices(["an", "el", "mar", "io", "ka", "ri\n"], k=90_000)
    text = "".join(syllables)  # 224,000 characters: a list of names, one a line
    tokenizer = train_tokenizer(TokenizerConfig(kind, 400), [text])
    ids = tokenizer.encode(text)
    assert len(ids) < 0.5 * len(text) and tokenizer.decode(ids) == text


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_truncated_tokenizer_is_refused(tmp_path):
    TOKENIZERS["bpe"].save(tmp_path)
    (tmp_path / "sentencepiece.model").write_bytes(TOKENIZERS["bpe"].model[:1000])
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_words_are_numbered_by_frequency_and_rare_ones_are_unknown():
    config = TokenizerConfig("word", 100, lowercase=True, minimum_count=2)
    tokenizer = train_tokenizer(config, ["The cat's hat, the dog.\nThe cat's end, a hat"])
    assert tokenizer.decode(np.arange(1, tokenizer.vocab_size)) == "<unk> the , cat's hat"
    assert tokenizer.decode(tokenizer.encode("THE hat of the <|endoftext|>")) == (
        "the hat <unk> the <unk> <unk> <unk> <unk> <unk>"
    )
    assert not tokenizer.lossless


def test_what_opens_texts_is_saved_and_is_not_for_training(tmp_path):
    own = train_tokenizer(TokenizerConfig("byte"), [])
    assert own.beginning == own.end_of_document == 256
    own._replace(opening=65).save(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert (loaded.beginning, loaded.end_of_document) == (65, 256)
    for path in (tmp_path, tmp_path / "tokenizer"):  # a run, and where it keeps its tokenizer
        trained_on = train_tokenizer(TokenizerConfig("byte", path=str(path)), [])
        assert trained_on.beginning == 256
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"kind": "byte", "beginning": 257}')
    with pytest.raises(UserError, match="no tokenizer that can be read"):
        load_tokenizer(tmp_path / "tokenizer")


def test_a_vocabulary_of_words_is_saved_and_loaded(tmp_path):
    tokenizer = train_tokenizer(TokenizerConfig("whitespace", 100), ["a b b\nc"])
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("b c\na d").tolist() == tokenizer.encode("b c\na d").tolist()
    assert loaded.decode(loaded.encode("b c\na")) == "b c\na"


def test_a_vocabulary_without_room_for_words_is_refused():
    with pytest.raises(UserError, match="has no room for a word"):
        train_tokenizer(TokenizerConfig("word", 2), ["a b"])


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_a_padded_vocabulary_have_no_text(kind):
    tokenizer = TOKENIZERS[kind]
    padded = np.append(tokenizer.encode("text"), [tokenizer.vocab_size, tokenizer.vocab_size + 99])
    assert tokenizer.decode(padded) == "text"


def test_a_word_spelled_unk_is_a_word_where_none_are_unknown():
    tokenizer = train_tokenizer(TokenizerConfig("whitespace", 9, unknown=False), ["a <unk> b"])
    assert tokenizer.decode(tokenizer.encode("<unk> a")) == "<unk> a"
    with pytest.raises(UserError, match="the word 'c' is not in the vocabulary"):
        tokenizer.encode("a c")
