"""The tokens that each filter keeps, and the distribution of draws."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.generation.sampling import (
    Sampling,
    filter_top_k,
    filter_top_p,
    sample,
    tokens_seen,
)


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
