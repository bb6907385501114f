import numpy as np
import pytest

from lm_jax.data import TokenizerConfig, tokenize
from lm_jax.data.batches import Share
from lm_jax.data.text.denoising_batches import (
    evaluation_corrupted,
    masking,
    prefixing,
    span_corruption,
    text_length,
    training_corrupted,
)
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError
from tests.data.text.spans import restore_spans

BYTES = train_tokenizer(TokenizerConfig("byte"), [])
TEXTS = ["the first document", "second", "", "a third one, longer than any window " * 9, "x"] * 3
DOCUMENTS = tokenize(BYTES, TEXTS)
ONE = tokenize(BYTES, ["only one document " * 40])
END, SENTINELS = 256, 10
ROWS = {"source_length": 40, "context_length": 18}
RATES = {"density": 0.2, "mean_span": 2.0}
LENGTH, SPANS = text_length(**ROWS, **RATES)
CORRUPTIONS = {
    "masked_lm": (masking(rate=0.15, vocab_size=258, end=END), 32),
    "prefix_lm": (prefixing(), 32),
    "span_corruption": (
        span_corruption(**ROWS, **RATES, vocab_size=257 + SENTINELS, end=END),
        LENGTH,
    ),
}


def training(name, documents=DOCUMENTS, seed=0, **processes):
    corrupt, length = CORRUPTIONS[name]
    return training_corrupted(
        documents, corrupt, context_length=length, batch_size=6, seed=seed, **processes
    )


def evaluation(name, documents=DOCUMENTS, batch_size=6, **processes):
    corrupt, length = CORRUPTIONS[name]
    return evaluation_corrupted(
        documents, corrupt, context_length=length, batch_size=batch_size, **processes
    )


def all_rows(batches):
    names = batches[0].keys()
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
    is_text = rows["weights"].any(axis=1)
    return {name: array[is_text] for name, array in rows.items()}


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_what_is_hidden_is_a_function_of_seed_and_step(name):
    one, again, other = training(name), training(name), training(name, seed=1)
    for key, value in one[11].items():
        np.testing.assert_array_equal(value, again[11][key])
    assert any((one[11][key] != other[11][key]).any() for key in one[11])
    length = len(ONE.tokens) // CORRUPTIONS[name][1]
    first, later = training(name, ONE)[0], training(name, ONE)[length]
    assert any((first[key] != later[key]).any() for key in first)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_processes_read_consecutive_rows_of_one_global_batch(name):
    for make in (lambda **p: training(name, **p)[3], lambda **p: evaluation(name, **p)[1]):  # noqa: B023
        whole = make()
        parts = [make(share=Share(index, 3)) for index in range(3)]
        for key, value in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)


@pytest.mark.parametrize("documents", [DOCUMENTS, ONE])
@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_evaluation_does_not_depend_on_the_batch_size(name, documents):
    some, others = (all_rows(evaluation(name, documents, size)) for size in (1, 5))
    for key, value in some.items():
        np.testing.assert_array_equal(value, others[key])


def test_masked_tokens_are_told_in_their_own_places():
    for batch in (training("masked_lm")[4], evaluation("masked_lm")[0]):
        chosen = batch["weights"] > 0
        np.testing.assert_array_equal(batch["inputs"][~chosen], batch["targets"][~chosen])
        assert (batch["targets"][chosen] != END).all()
        assert (batch["inputs"][chosen] == 257).mean() > 0.5
        assert batch["inputs"].max() == 257 > batch["targets"].max()
    rows = all_rows(evaluation("masked_lm"))
    counted = np.bincount(rows["documents"][rows["weights"] > 0], minlength=len(TEXTS))
    assert (counted <= [len(text) for text in TEXTS]).all() and counted[3] > 20


def test_prefixes_weigh_nothing_and_are_seen_whole():
    for batch in (training("prefix_lm")[4], evaluation("prefix_lm")[0]):
        prefix, weights, segments = batch["prefix"], batch["weights"], batch["segments"]
        assert 0.2 < prefix.mean() < 0.7
        for row, t in np.ndindex(*prefix.shape):
            inside = t + 1 < 32 and segments[row, t + 1] == segments[row, t] and prefix[row, t + 1]
            assert weights[row, t] == float(segments[row, t] > 0 and not inside)
    assert "segments" not in training("prefix_lm", ONE)[0]


@pytest.mark.parametrize("documents", [DOCUMENTS, ONE])
def test_corrupted_spans_give_back_the_text(documents):
    sentinels = 257 + SENTINELS - 1 - np.arange(SPANS)
    rows = all_rows(evaluation("span_corruption", documents))
    texts = []
    for row in range(len(rows["source"])):
        source, target = (
            rows[name][row][rows[segments][row] > 0]
            for name, segments in (("source", "source_segments"), ("targets", "segments"))
        )
        assert source[-1] == target[-1] == END
        inputs = rows["inputs"][row][rows["segments"][row] > 0]
        np.testing.assert_array_equal(inputs, np.append(END, target[:-1]))
        texts.append(restore_spans(source[:-1], target[:-1], sentinels))
    np.testing.assert_array_equal(np.concatenate(texts), documents.tokens[:-1])


def test_every_corrupted_span_is_of_its_document():
    rows = all_rows(evaluation("span_corruption"))
    for row in range(len(rows["source"])):
        counted = rows["weights"][row] > 0
        targets, documents = rows["targets"][row][counted], rows["documents"][row][counted]
        following = documents[1:]
        for token, document, after in zip(targets[:-1], documents[:-1], following, strict=True):
            if token < END:
                assert chr(token) in TEXTS[document]
            elif token > END:
                assert document == after


def test_a_row_too_short_for_a_span_is_refused():
    with pytest.raises(UserError, match="too short for a text with a corrupted span"):
        text_length(source_length=40, context_length=2, **RATES)


def test_a_mask_of_the_tokenizer_stands_where_a_token_is_hidden():
    row = {"inputs": np.full(400, 7), "weights": np.ones(400)}
    found = masking(rate=0.5, vocab_size=300, end=0, mask=103)(row, np.random.default_rng(0))
    chosen = found["weights"] > 0
    assert 0.7 < np.mean(found["inputs"][chosen] == 103) < 0.9
    assert (found["inputs"][~chosen] == 7).all() and found["inputs"].max() < 300
