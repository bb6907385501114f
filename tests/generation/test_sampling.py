"""The filters beside Hugging Face's logits processors, and the draws beside their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.generation.sampling import (
    Sampling,
    filter_min_p,
    filter_top_k,
    filter_top_p,
    penalize,
    process,
    sample,
    tokens_seen,
)

LOGITS = np.random.default_rng(0).normal(0, 3, (64, 50)).astype(np.float32)
READ = np.random.default_rng(1).integers(0, 50, (64, 20))
SEEN = tokens_seen(jnp.asarray(READ), jnp.int32(20), 50)


def hugging_face(*processors):
    import torch

    logits = torch.tensor(LOGITS)
    for processor in processors:
        logits = processor(torch.tensor(READ), logits)
    return logits.numpy()


@pytest.mark.parametrize("value", [0.5, 1.3, 2.0])
def test_the_repetition_penalty_is_hugging_faces(value):
    from transformers import RepetitionPenaltyLogitsProcessor as Theirs

    np.testing.assert_allclose(
        penalize(jnp.asarray(LOGITS), SEEN, value), hugging_face(Theirs(value)), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (filter_top_k, "TopKLogitsWarper", [1, 5, 50]),
        (filter_top_p, "TopPLogitsWarper", [0.1, 0.5, 0.9, 0.99]),
        (filter_min_p, "MinPLogitsWarper", [0.01, 0.1, 1.0]),
    ],
)
def test_each_filter_is_hugging_faces(ours, theirs, values):
    import transformers

    for value in values:
        expected = hugging_face(getattr(transformers, theirs)(value))
        np.testing.assert_array_equal(ours(jnp.asarray(LOGITS), value), expected)


def test_all_of_them_apply_in_hugging_faces_order():
    from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

    how = {"repetition_penalty": 1.5, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.03}
    network = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=4, n_layer=1, n_head=1))
    theirs = network._get_logits_processor(
        GenerationConfig(do_sample=True, **how), input_ids_seq_length=20
    )
    expected = hugging_face(*theirs)
    assert 1 < np.isfinite(expected).sum(axis=1).mean() < 20
    found = process(jnp.asarray(LOGITS), Sampling(**how), SEEN)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_tokens_seen_are_those_read_so_far():
    seen = tokens_seen(jnp.array([[1, 2, 3], [0, 0, 4]]), jnp.int32(2), 5)
    assert [np.flatnonzero(row).tolist() for row in np.asarray(seen)] == [[1, 2], [0]]


def test_top_k_keeps_ties_at_the_boundary():
    logits = jnp.array([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert jnp.isfinite(filter_top_k(logits, 2)).tolist() == [[False, True, True, True, False]]
    assert jnp.isfinite(filter_top_k(logits, 9)).all()


def test_top_p_keeps_the_token_that_crosses():
    logits = jnp.log(jnp.array([[0.1, 0.5, 0.15, 0.25]]))
    kept = lambda p: jnp.isfinite(filter_top_p(logits, p))[0].tolist()  # noqa: E731
    assert kept(0.6) == [False, True, False, True]
    assert kept(0.01) == [False, True, False, False]
    assert kept(0.80) == [False, True, True, True]


def test_top_p_of_nothing_keeps_the_most_probable():
    assert jnp.isfinite(filter_top_p(jnp.zeros((1, 3)), 0.0)).tolist() == [[True, False, False]]


def test_draws_follow_the_tempered_distribution():
    logits = jnp.tile(jnp.array([[0.0, 1.0, 2.0]]), (40_000, 1))
    keys = jax.random.split(jax.random.key(0), 40_000)
    drawn = sample(keys, logits, Sampling(temperature=0.5))
    shares = np.bincount(np.asarray(drawn), minlength=3) / 40_000
    expected = np.exp([0.0, 2.0, 4.0]) / np.exp([0.0, 2.0, 4.0]).sum()
    np.testing.assert_allclose(shares, expected, atol=0.01)


def test_a_greedy_choice_takes_account_of_repetitions():
    logits, seen = jnp.array([[3.0, 2.0, -1.0]]), jnp.array([[True, False, True]])
    choose = lambda penalty: sample(  # noqa: E731
        None, logits, Sampling(penalty, temperature=0), seen
    )
    assert choose(1.0).tolist() == [0] and choose(2.0).tolist() == [1]
