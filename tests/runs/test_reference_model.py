"""The language model that the preparation of data scores texts with."""

import math
import random

import jax
import jax.numpy as jnp
import pytest

from lm_jax.data import TokenizerConfig, tokenize, train_tokenizer
from lm_jax.data.preparation.config import PerplexityConfig, PreparationConfig
from lm_jax.data.preparation.plan import LanguageModel
from lm_jax.data.preparation.prepare import prepare
from lm_jax.data.text.windows import evaluation_batches
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import make_loss_function, sum_by_document
from lm_jax.models.ngram.model import NgramConfig, ngram
from lm_jax.parallel import sharding
from lm_jax.runs import reference_model
from tests.data.preparation.corpora import prose, write_jsonl

RNG = random.Random(0)
REFERENCE = [prose(RNG) for _ in range(30)]
TEXTS = [prose(RNG), "".join(RNG.choices("abcdefgh XYZ", k=900)), prose(RNG, 2), "The"]


@pytest.fixture(scope="module")
def score(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    reference_model.fit(REFERENCE, directory)
    return reference_model.load(directory)


def test_bits_are_those_of_an_evaluation(score):
    """The evaluation counts the end of each document, too; its windows are longer than any text."""
    tokenizer = train_tokenizer(TokenizerConfig("char", 4096), REFERENCE)
    model = ngram(NgramConfig(tokenizer.vocab_size, order=5))
    batches = list(
        evaluation_batches(
            tokenize(tokenizer, TEXTS), context_length=2048, batch_size=4, stride=2048
        )
    )
    variables = jax.tree.map(jnp.asarray, model.fit(tokenize(tokenizer, REFERENCE)))
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    for batch in batches:  # leaves the ends out
        batch["weights"] = batch["weights"] * (batch["targets"] != tokenizer.end_of_document)
    sums = sum_by_document(make_loss_function(model.loss), variables, batches, len(TEXTS), mesh)
    for text, nats, bits in zip(TEXTS, sums.nats, score(TEXTS), strict=True):
        assert bits == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)


def test_a_score_depends_on_its_text_alone(score):
    many = TEXTS * 30  # several batches
    assert score(many) == pytest.approx(score(TEXTS) * 30)
    assert score([""]) == [0.0]


def test_the_least_probable_documents_are_dropped(tmp_path):
    texts = [*(prose(RNG) for _ in range(8)), TEXTS[1], TEXTS[1][::-1]]
    raw = write_jsonl(tmp_path / "raw.jsonl", texts)
    reference = write_jsonl(tmp_path / "reference.jsonl", REFERENCE)
    config = PreparationConfig(
        path=str(raw),
        stages="perplexity",
        tasks=2,
        perplexity=PerplexityConfig(reference=str(reference), keep=0.8),
    )
    seen = {}
    prepare(
        config,
        tmp_path / "corpus",
        1,
        lambda statistics, manifest, path: seen.update(statistics),
        language_model=LanguageModel(reference_model.fit, reference_model.load),
    )
    (rule,) = seen["rules"]
    assert {row["id"] for row in rule["examples"]} == {"raw.jsonl:9", "raw.jsonl:10"}
    assert all(row["bits_per_character"] > 3 for row in rule["examples"])


def test_a_stage_without_its_language_model_is_refused(tmp_path):
    raw = write_jsonl(tmp_path / "raw.jsonl", TEXTS)
    config = PreparationConfig(path=str(raw), stages="perplexity")
    with pytest.raises(UserError, match="perplexity.reference names no clean text"):
        prepare(config, tmp_path / "corpus", 1, print)
    config.perplexity.reference = str(raw)
    with pytest.raises(UserError, match="no language model was given"):
        prepare(config, tmp_path / "corpus", 1, print)
