"""Tokenizers of runs, written for the package `tokenizers`: the same tokens, the same text."""

import random

import pytest
from tokenizers import Tokenizer

from lm_jax.data import train_tokenizer
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.data.tokenizers import AWKWARD_TEXTS
from lm_jax.interop.export_tokenizer import end_of_document, tokenizer_json

TEXT = "the cat sat on the mat, and the dog sat on the log; nothing else was there. " * 9
KINDS = {"byte": 0, "char": 290, "bpe": 330, "unigram": 280}


def words(seed):
    draw = random.Random(seed)
    letters = "the catdogs.,;\n\n  mnéö日本\U0001f642"
    return "".join(draw.choice(letters) for _ in range(draw.randrange(60)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_tokenizer_makes_the_same_tokens_and_the_same_text(kind):
    ours = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=KINDS[kind] or 1), [TEXT])
    text = tokenizer_json(ours)
    theirs = Tokenizer.from_str(text)
    for each in (TEXT, *AWKWARD_TEXTS, *map(words, range(200))):
        ids = theirs.encode(each, add_special_tokens=False).ids
        assert ids == ours.encode(each).tolist(), each
        assert theirs.decode(ids, skip_special_tokens=False) == each
    end = end_of_document(ours, text)
    assert theirs.token_to_id(end) == ours.end_of_document
    assert theirs.get_vocab_size() == ours.vocab_size


def test_a_vocabulary_of_words_has_no_counterpart():
    assert tokenizer_json(train_tokenizer(TokenizerConfig(kind="word"), [TEXT])) is None
