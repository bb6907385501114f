"""Data sets of tensorflow-datasets, real or mocked, without TensorFlow."""

import sys

import pytest

from lm_jax.data import (
    DataConfig,
    ImageConfig,
    LabelledTextConfig,
    ParallelTextConfig,
    TokenizerConfig,
    prepare,
)
from lm_jax.data.cleaning import drop_repeated_paragraphs
from lm_jax.data.embedded import python_reference
from lm_jax.errors import UserError
from tests.data.seq2seq.test_parallel_corpus import BYTES, pairs_of

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")


def test_tensorflow_datasets_are_read_without_tensorflow():
    config = DataConfig(source="tfds", path="python_reference", tokenizer=TokenizerConfig("byte"))
    corpus = prepare(config)
    total = sum(corpus.description[split]["documents"] for split in ("train", "validation"))
    kept = list(filter(None, drop_repeated_paragraphs(python_reference())[0]))
    assert total == pytest.approx(len(kept), abs=3)  # its order decides which paragraph is first
    assert "tensorflow" not in sys.modules


def test_an_unknown_data_set_is_refused_in_one_line():
    with pytest.raises(UserError, match="'no_such_set' cannot be had") as error:
        prepare(DataConfig(source="tfds", path="no_such_set"))
    assert "\n" not in str(error.value)


def test_tensorflow_datasets_are_read_either_way_round():
    with tensorflow_datasets.testing.mock_data(num_examples=30):
        whole = {"source": "tfds", "path": "wmt14_translate/de-en", "tokenizer": BYTES}
        whole["drop_near_copies"] = False
        one = prepare(ParallelTextConfig(**whole))
        other = prepare(ParallelTextConfig(**whole, source_language="en"))
        with pytest.raises(UserError, match="'fr' is none of .* it has de and en"):
            prepare(ParallelTextConfig(**whole, source_language="fr"))
    all_of = lambda found: pairs_of(found, "train") + pairs_of(found, "validation")  # noqa: E731
    assert len(all_of(one)) == 30
    assert sorted(all_of(one)) == sorted(pair[::-1] for pair in all_of(other))


def test_tensorflow_datasets_are_read_by_their_names():
    with tensorflow_datasets.testing.mock_data(num_examples=40):
        reviews = prepare(LabelledTextConfig(source="tfds", path="imdb_reviews"))
        digits = prepare(ImageConfig(source="tfds", path="mnist"))
        with pytest.raises(UserError, match="cats_vs_dogs has images of .* sizes"):
            prepare(ImageConfig(source="tfds", path="cats_vs_dogs"))
    assert set(reviews.labels) <= {"neg", "pos"} and reviews.tokenizer.vocab_size > 40
    assert digits.train.inputs.shape[1:] == (28, 28, 1) and digits.labels == list("0123456789")
