"""Readers and tokenizers that stand outside the package are named by file and attribute."""

import numpy as np
import pytest

from lm_jax.data import (
    DataConfig,
    ImageConfig,
    LabelledTextConfig,
    ParallelTextConfig,
    TokenizerConfig,
    load_tokenizer,
    prepare,
    texts_of,
)
from lm_jax.errors import UserError

BYTES = TokenizerConfig("byte")
CODE = """
import numpy as np
from lm_jax.data import Documents
from lm_jax.data.classification.images import Images
from lm_jax.data.classification.labelled_text import LabelledText
from lm_jax.data.seq2seq.readers import Pair
from lm_jax.data.tokenizers import Bytes, TokenizerKind

def texts(config):
    return Documents([f"text {n}" for n in range(50)] + [" "], description={"made": config.path})

def labelled(config):
    return Documents([LabelledText(f"text {n}", f"label {n % 2}") for n in range(50)])

def pairs(config):
    return Documents([Pair(f"{n}", f"{n * n}", "", f"pair {n}") for n in range(50)])

def images(config):
    return Images((np.zeros((20, 4, 4), np.uint8), np.arange(20) % 2), labels=["even", "odd"])

def wrong(config):
    return ["a text"]


def numbers(config):
    return Documents([3, 4])

def one_text(config):
    return Documents(["a text", "another"], validation="held out")

def generated(config):
    return Documents(f"text {n}" for n in range(50))

class Letters(Bytes):
    vocab_size, end_of_document = 128, 0

LETTERS = TokenizerKind(lambda config, texts: b"letters", lambda model: Letters(), "letters", True)
"""


@pytest.fixture
def outside(tmp_path):
    (tmp_path / "outside.py").write_text(CODE)
    return lambda attribute: f"{tmp_path / 'outside.py'}:{attribute}"


def test_a_reader_from_outside_gives_documents(outside):
    corpus = prepare(DataConfig(source=outside("texts"), path="anywhere", tokenizer=BYTES))
    found = texts_of(corpus.tokenizer, corpus.train) + texts_of(corpus.tokenizer, corpus.validation)
    assert sorted(found) == sorted(f"text {n}" for n in range(50))
    assert corpus.description["made"] == "anywhere"


def test_readers_of_labelled_texts_pairs_and_images_may_stand_outside(outside):
    labelled = prepare(LabelledTextConfig(source=outside("labelled"), validation_fraction=0.3))
    assert labelled.labels == ["label 0", "label 1"] and labelled.sizes["num_classes"] == 2
    pairs = prepare(
        ParallelTextConfig(source=outside("pairs"), tokenizer=BYTES, drop_near_copies=False)
    )
    assert len(pairs.train.texts) + len(pairs.validation.texts) == 50
    images = prepare(ImageConfig(source=outside("images")))
    assert images.labels == ["even", "odd"]


def test_a_reader_that_returns_something_else_is_refused(outside):
    with pytest.raises(UserError, match="returned list; expected lm_jax.data.Documents"):
        prepare(DataConfig(source=outside("wrong"), tokenizer=BYTES))
    with pytest.raises(UserError, match=r"returned a document of int \(3\); expected text"):
        prepare(DataConfig(source=outside("numbers"), tokenizer=BYTES))
    with pytest.raises(UserError, match="whose validation is a str; expected a list of documents"):
        prepare(DataConfig(source=outside("one_text"), tokenizer=BYTES))
    with pytest.raises(UserError, match="whose train is a generator; expected a list"):
        prepare(DataConfig(source=outside("generated"), tokenizer=BYTES))


def test_a_tokenizer_from_outside_is_trained_and_loaded(outside, tmp_path):
    config = TokenizerConfig(kind=outside("LETTERS"))
    tokenizer = prepare(DataConfig(split="tail", tokenizer=config)).tokenizer
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.vocab_size == 128 and again.model == b"letters"
    np.testing.assert_array_equal(again.encode("abc"), [97, 98, 99])
