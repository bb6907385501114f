import math

import jax
import numpy as np
import pytest

from lm_jax.build import build_experiment, measure
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.data import TokenizerConfig, tokenize
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.evaluation.loss_sums import DocumentSums, make_loss_function
from lm_jax.evaluation.metrics import text_measures
from lm_jax.parallel import sharding
from lm_jax.training.state import init_state, variables_of
from tests.conftest import slow_but
from tests.experiments import tiny

BYTES = train_tokenizer(TokenizerConfig("byte"), [])
TEXTS = ["a first document " * 7, "ünïcode", "x", "the longest of them all " * 30]
DOCUMENTS = tokenize(BYTES, TEXTS)


def figures(devices=1, batch_size=64, stride=0):
    config = tiny(mesh="auto")
    built = build_experiment(config, {"vocab_size": 257}, jax.devices()[:devices])
    state = init_state(built.model, built.optimizer, built.example, built.mesh, 0)
    # Larger than initial, so that the figures differ from a uniform guess.
    variables = jax.tree.map(lambda x: 5 * x, variables_of(state))
    losses = make_loss_function(built.loss)
    how = EvaluationConfig(batch_size=batch_size, stride=stride)
    return measure(built, losses, variables, DOCUMENTS, BYTES, how)


@pytest.fixture(scope="module")
def reference():
    return figures()


@pytest.mark.parametrize(
    ("devices", "batch_size"),
    slow_but([(1, 1), (1, 7), (1, 64), (2, 64), (8, 64), (8, 8)], (1, 1), (1, 7), (8, 8)),
)
def test_figures_do_not_depend_on_batch_size_or_devices(devices, batch_size, reference):
    found = figures(devices, batch_size)
    assert found.keys() == reference.keys()
    for name, value in found.items():
        assert value == pytest.approx(reference[name], abs=1e-5, rel=1e-5), name


def test_every_token_and_every_end_is_counted(reference):
    assert reference["tokens"] == sum(len(text.encode()) + 1 for text in TEXTS)
    assert reference["characters"] == sum(map(len, TEXTS))
    assert reference["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert reference["words"] == sum(len(text.split()) for text in TEXTS)
    assert reference["documents"] == 4


def test_figures_equal_those_of_one_document_at_a_time(reference):
    config = tiny(mesh="auto")
    built = build_experiment(config, {"vocab_size": 257}, jax.devices()[:1])
    loss = jax.jit(built.model.loss, static_argnames="train")
    state = init_state(built.model, built.optimizer, built.example, built.mesh, 0)
    variables = jax.tree.map(lambda x: 5 * x, variables_of(state))
    nats = 0.0
    for text in TEXTS:
        tokens = np.array([256, *text.encode(), 256], np.int32)
        for first in range(0, len(tokens) - 1, 32):
            window = tokens[first : first + 33][None]
            batch = {"inputs": window[:, :-1], "targets": window[:, 1:]}
            nats += float(loss(variables, batch, train=False)[0].nats.sum())
    assert reference["nats"] == pytest.approx(nats, rel=1e-5)


def test_a_stride_gives_more_context_to_the_same_tokens(reference):
    strided = figures(stride=8)
    assert strided["tokens"] == reference["tokens"]
    assert strided["nats"] != pytest.approx(reference["nats"], rel=1e-6)


def test_measures_follow_their_definitions():
    sums = DocumentSums(np.array([10.0, 30.0]), np.array([1.0, 3.0]), np.array([5.0, 11.0]))
    sizes = np.array([20, 60]), np.array([25, 75]), np.array([4, 12])
    found = text_measures(sums, *sizes)
    assert found["cross_entropy"] == pytest.approx(40 / 16)
    assert found["perplexity"] == pytest.approx(math.exp(40 / 16))
    assert found["bits_per_character"] == pytest.approx(40 / math.log(2) / 80)
    assert found["bits_per_byte"] == pytest.approx(40 / math.log(2) / 100)
    assert found["bits_per_word"] == pytest.approx(40 / math.log(2) / 16)
    assert found["word_perplexity"] == pytest.approx(math.exp(40 / 16))
    assert found["accuracy"] == pytest.approx(4 / 16)


def test_a_text_without_spaces_between_words_has_no_figures_per_word():
    sums = DocumentSums(np.array([10.0]), np.array([1.0]), np.array([5.0]))
    japanese = "今日は天気がよいので、公園へ散歩に行きました。\n東京の電車はとても便利です。\n"
    words = np.array([len(japanese.split())])
    characters = np.array([len(japanese)])
    found = text_measures(sums, characters, characters * 3, words)
    assert found["bits_per_word"] is None and found["word_perplexity"] is None
    assert found["bits_per_character"] > 0
    finnish = "kolmivaihekilowattituntimittari on laite sähköenergian mittaamiseen taloissa"
    found = text_measures(
        sums, np.array([len(finnish)]), np.array([90]), np.array([len(finnish.split())])
    )
    assert found["bits_per_word"] == pytest.approx(10 / math.log(2) / 6)


def test_the_standard_error_agrees_with_the_bootstrap():
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 500, 200).astype(float)
    nats = tokens * rng.normal(2.0, 0.3, 200)
    sums = DocumentSums(nats, tokens * 0, tokens)
    found = text_measures(sums, tokens, tokens, tokens)["cross_entropy_standard_error"]
    draws = rng.integers(0, 200, (4000, 200))
    bootstrap = np.std(nats[draws].sum(1) / tokens[draws].sum(1))
    assert found == pytest.approx(bootstrap, rel=0.05)


def test_the_standard_error_of_documents_of_one_length_is_that_of_a_mean():
    nats, tokens = np.array([4.0, 7.0, 13.0]), np.full(3, 5.0)
    found = text_measures(DocumentSums(nats, tokens, tokens), tokens, tokens, tokens)
    expected = np.std(nats / 5, ddof=1) / np.sqrt(3)
    assert found["cross_entropy_standard_error"] == pytest.approx(expected, rel=1e-12)


def test_one_document_has_no_standard_error():
    sums = DocumentSums(np.array([3.0]), np.array([1.0]), np.array([2.0]))
    one = np.array([1])
    assert text_measures(sums, one, one, one)["cross_entropy_standard_error"] is None


def test_the_mesh_splits_what_it_says():
    mesh = sharding.make_mesh("data:2,fsdp:2,tensor:2")
    assert sharding.data_parts(mesh) == 4
