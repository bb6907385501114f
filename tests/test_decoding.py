import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.decoding import Sampling, filter_top_k, filter_top_p, generate, sample
from lm_jax.models import build_model
from lm_jax.models.transformer import TransformerConfig

CONFIG = TransformerConfig(vocab_size=17, context_length=24, num_layers=2, d_model=32, num_heads=4)
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model_and_variables():
    model = build_model(CONFIG, jnp.float32)
    batch = {"inputs": jnp.zeros((1, 8), jnp.int32)}
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    return model, jax.tree.map(lambda x: 8 * x, variables)


def run(model_and_variables, prompts, limit, sampling=GREEDY, end=-1, seed=0):
    model, variables = model_and_variables
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.zeros((len(prompts), 24), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    limits = np.minimum(lengths + limit, 24).astype(np.int32)
    tokens, ends, ended = generate(
        model,
        variables,
        tokens,
        lengths,
        limits,
        jax.random.key(seed),
        sampling=sampling,
        end_token=end,
    )
    rows = zip(np.asarray(tokens), np.asarray(ends), strict=True)
    return [row[:end].tolist() for row, end in rows], np.asarray(ended)


def test_greedy_decoding_equals_the_uncached_argmax(model_and_variables):
    model, variables = model_and_variables
    apply = jax.jit(model.apply, static_argnames="train")
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    texts, _ = run(model_and_variables, prompts, limit=10)
    for prompt, text in zip(prompts, texts, strict=True):
        expected = list(prompt)
        for _ in range(10):
            padded = jnp.array([expected + [0] * (24 - len(expected))])
            logits, _ = apply(variables, {"inputs": padded}, train=False)
            expected.append(int(logits[0, len(expected) - 1].argmax()))
        assert text == expected


def test_a_text_does_not_depend_on_its_batch(model_and_variables):
    together, _ = run(model_and_variables, [[1, 2], [3], [4, 5, 6]], limit=8)
    alone = [run(model_and_variables, [p], limit=8)[0][0] for p in ([1, 2], [3], [4, 5, 6])]
    assert together == alone


def test_the_end_token_ends_its_own_text_only(model_and_variables):
    (free, other), _ = run(model_and_variables, [[1], [2]], limit=12)
    end = free[5]
    first = free.index(end, 1)
    (cut, beside), ended = run(model_and_variables, [[1], [2]], limit=12, end=end)
    assert cut == free[:first] and ended[0]
    assert beside == (other[: other.index(end, 1)] if end in other[1:] else other)


def test_limits_count_new_tokens(model_and_variables):
    texts, ended = run(model_and_variables, [[1, 2, 3], [4]], limit=5)
    assert [len(text) for text in texts] == [8, 6] and not ended.any()


def test_the_seed_decides_the_draws(model_and_variables):
    draw = lambda seed: run(  # noqa: E731
        model_and_variables, [[1]], limit=20, sampling=Sampling(2.0), seed=seed
    )[0]
    assert draw(0) == draw(0) != draw(1)


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


def test_draws_follow_the_tempered_distribution():
    logits = jnp.tile(jnp.array([[0.0, 1.0, 2.0]]), (40_000, 1))
    drawn = sample(jax.random.key(0), logits, Sampling(temperature=0.5))
    shares = np.bincount(np.asarray(drawn), minlength=3) / 40_000
    expected = np.exp([0.0, 2.0, 4.0]) / np.exp([0.0, 2.0, 4.0]).sum()
    np.testing.assert_allclose(shares, expected, atol=0.01)


def test_top_p_of_nothing_keeps_the_most_probable():
    assert jnp.isfinite(filter_top_p(jnp.zeros((1, 3)), 0.0)).tolist() == [[True, False, False]]
