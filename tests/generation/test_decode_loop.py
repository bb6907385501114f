import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.generation.decode_loop import (
    advance,
    batch_of_prompts,
    begin,
    generate,
    next_token_probabilities,
    prefix_of,
)
from lm_jax.generation.sampling import Sampling
from tests.generation.generating import FAMILIES, VOCAB, model_of, reader_of_a_source
from tests.models.jitted import jitted

GREEDY = Sampling(temperature=0.0)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
WIDTH = 24
GENERATE = jax.jit(generate, static_argnames=("model", "sampling", "end_tokens", "prefix_length"))


def run(model, variables, prompts, limit, sampling=GREEDY, ends=(), seed=0, keys=None, **how):
    """Returns each text as a list of tokens, and all arrays of the result."""
    tokens, lengths = batch_of_prompts(prompts, WIDTH, VOCAB)
    if keys is None:
        keys = jax.random.split(jax.random.key(seed), len(prompts))
    texts = GENERATE(
        model,
        variables,
        tokens,
        lengths,
        np.minimum(lengths + limit, WIDTH),
        keys,
        sampling=sampling,
        end_tokens=ends,
        **how,
    )
    rows = zip(np.asarray(texts.tokens), np.asarray(texts.lengths), strict=True)
    return [row[:length].tolist() for row, length in rows], texts


@pytest.fixture(scope="module")
def small():
    return model_of("transformer")


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_decoding_equals_the_uncached_argmax(name):
    model, variables = model_of(name)
    apply = jax.jit(model.apply, static_argnames="train")
    texts, found = run(model, variables, PROMPTS, limit=10)
    log_probabilities = np.asarray(found.log_probabilities)
    for prompt, text, log_p in zip(PROMPTS, texts, log_probabilities, strict=True):
        padded = jnp.array([text + [0] * (WIDTH - len(text))])
        logits, _ = apply(variables, {"inputs": padded}, train=False)
        expected = np.asarray(jax.nn.log_softmax(logits[0]))
        for position in range(len(prompt), len(prompt) + 10):
            token = int(expected[position - 1].argmax())
            assert text[position] == token
            np.testing.assert_allclose(log_p[position], expected[position - 1, token], atol=1e-4)
        assert not log_p[: len(prompt)].any() and not log_p[len(prompt) + 10 :].any()


@pytest.mark.parametrize("texts", [1, 2])
def test_the_loop_over_tokens_copies_no_cache(small, texts):
    model, variables = small
    tokens, lengths = batch_of_prompts([[1]] * texts, WIDTH, VOCAB)
    keys = jax.random.split(jax.random.key(0), texts)
    how = {"sampling": GREEDY, "end_tokens": ()}
    lowered = GENERATE.lower(model, variables, tokens, lengths, lengths + 8, keys, **how)
    program = lowered.compile().as_text()
    (body,) = re.findall(r"while\(.*body=(%[\w.]+)", program)
    computation = program.split(f"\n{body} (")[1].split("\n}")[0]
    assert "dynamic-update-slice" in computation  # that writes the cache
    assert not re.findall(r"= f32\S* copy\(", computation)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prefix_that_is_read_at_once_changes_no_text(name):
    model, variables = model_of(name)
    prompts = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9]]
    prefix = prefix_of(model, 10, WIDTH)
    assert prefix == (16, 16 - 9)
    expected, by_token = run(model, variables, prompts, limit=8)
    texts, at_once = run(model, variables, prompts, limit=8, prefix_length=16, surplus=7)
    assert texts == expected
    np.testing.assert_allclose(
        at_once.log_probabilities, by_token.log_probabilities, rtol=1e-4, atol=1e-5
    )


def test_lengths_of_prefixes_are_few_and_fit_the_row(small):
    model, _ = small
    lengths = {prefix_of(model, shortest, 40).length for shortest in range(1, 41)}
    assert lengths == {0, 16, 32, 40}
    for shortest in range(1, 41):
        prefix = prefix_of(model, shortest, 40)
        assert prefix.length - prefix.surplus == shortest - 1
    reads_only = model._replace(forget=None)
    assert {prefix_of(reads_only, n, 40) for n in range(1, 41)} == {(0, 0), (16, 0), (32, 0)}


@pytest.mark.parametrize("name", FAMILIES)
def test_carries_have_the_sequences_first(name):
    model, variables = model_of(name)

    def carries(variables):
        carry = model.start(variables, 5, 9)
        return carry, model.step(variables, carry, jnp.zeros(5, jnp.int32))[1]

    for leaf in jax.tree.leaves(jax.eval_shape(carries, variables)):
        assert leaf.ndim == 0 or leaf.shape[0] == 5


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.2, 0.9, 9, 0.95, 0.01)])
def test_a_text_does_not_depend_on_its_batch(small, sampling):
    keys = jax.random.split(jax.random.key(3), 3)
    together, _ = run(*small, PROMPTS, 8, sampling, ends=(11,), keys=keys)
    for index, prompt in enumerate(PROMPTS):
        alone, _ = run(*small, [prompt], 8, sampling, ends=(11,), keys=keys[index : index + 1])
        assert alone == [together[index]]
    others, _ = run(*small, [PROMPTS[1], [9] * 7], 8, sampling, ends=(11,), keys=keys[1:])
    assert others[0] == together[1]


def test_the_end_token_ends_its_own_text_only(small):
    (free, other), _ = run(*small, [[1], [2]], limit=12)
    end = free[5]
    first = free.index(end, 1)
    (cut, beside), texts = run(*small, [[1], [2]], limit=12, ends=(end,))
    assert cut == free[:first] and texts.ended[0] and texts.log_probabilities[0, first] < 0
    assert beside == (other[: other.index(end, 1)] if end in other[1:] else other)


def test_the_first_of_several_end_tokens_ends_a_text(small):
    (free,), _ = run(*small, [[1]], limit=12)
    ends = (free[7], free[4])
    (cut,), _ = run(*small, [[1]], limit=12, ends=ends)
    assert cut == free[: min(free.index(end, 1) for end in ends)]


def test_limits_count_new_tokens(small):
    texts, found = run(*small, [[1, 2, 3], [4]], limit=5)
    assert [len(text) for text in texts] == [8, 6] and not found.ended.any()


def test_the_seed_decides_the_draws(small):
    draw = lambda seed: run(*small, [[1]], 20, Sampling(temperature=2.0), seed=seed)[0]  # noqa: E731
    assert draw(0) == draw(0) != draw(1)


def test_log_probabilities_are_the_models_own_whatever_the_sampling(small):
    model, variables = small
    for sampling in (Sampling(temperature=3.0), Sampling(1.5, 2.0, 12, 0.9, 0.01)):
        (text,), texts = run(model, variables, [[1, 2]], 10, sampling)
        logits, _ = jitted(model).apply(variables, {"inputs": jnp.array([text])}, train=False)
        expected = np.asarray(jax.nn.log_softmax(logits[0]))[range(1, 11), text[2:]]
        np.testing.assert_allclose(texts.log_probabilities[0, 2:12], expected, atol=1e-4)


def test_interruptions_change_nothing(small):
    model, variables = small
    sampling = Sampling(temperature=1.5)
    expected, whole = run(model, variables, PROMPTS, 15, sampling, ends=(11,))
    tokens, lengths = batch_of_prompts(PROMPTS, WIDTH, VOCAB)
    texts = begin(model, variables, tokens, lengths)
    keys = jax.random.split(jax.random.key(0), 3)
    for until in (2, 3, 11, WIDTH):
        texts = advance(
            model,
            variables,
            texts,
            lengths + 15,
            until,
            keys,
            sampling=sampling,
            end_tokens=(11,),
        )
    for name in ("tokens", "lengths", "ended"):
        np.testing.assert_array_equal(getattr(texts, name), getattr(whole, name))


@pytest.mark.parametrize("has_read", [True, False])
def test_the_length_of_the_prefix_does_not_change_the_texts(has_read):
    model, variables = reader_of_a_source()
    if not has_read:
        model = model._replace(read=None)
    prompts = [[1, 2, 3, 4], [5, 6, 7]]
    sources = jnp.array([[3, 8, 1], [4, 9, 9]])
    source = {"source": sources, "source_segments": jnp.array([[1, 1, 1], [1, 1, 0]])}
    slowly, _ = run(model, variables, prompts, 9, source=source)
    at_once, _ = run(model, variables, prompts, 9, source=source, prefix_length=2)
    assert slowly == at_once
    padding = source | {"source": sources.at[1, 2].set(0)}
    assert run(model, variables, prompts, 9, source=padding)[0] == slowly
    other = source | {"source": sources.at[0, 2].set(17)}
    changed, _ = run(model, variables, prompts, 9, source=other)
    assert changed[0] != slowly[0] and changed[1] == slowly[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_next_token_probabilities_are_those_of_apply(name):
    model, variables = model_of(name)
    text = jnp.array([1, 5, 2, 2, 9])
    best, probabilities = jax.jit(next_token_probabilities, static_argnums=0)(
        model, variables, text
    )
    logits, _ = jitted(model).apply(variables, {"inputs": text[None]}, train=False)
    expected = np.asarray(jax.nn.softmax(logits[0]))
    assert best.shape == probabilities.shape == (5, 10)
    np.testing.assert_allclose(
        np.take_along_axis(expected, np.asarray(best), 1), probabilities, atol=1e-5
    )
    np.testing.assert_allclose(np.sort(expected)[:, :-11:-1], probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], [2, VOCAB]], "prompt 1 has the token 27, which is outside the vocabulary of 27"),
        ([[-1]], "prompt 0 has the token -1"),
        ([[1], []], "prompt 1 has 0 tokens; expected 1 to 24"),
        ([[1] * 25], "prompt 0 has 25 tokens"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompts, message):
    with pytest.raises(UserError, match=message):
        batch_of_prompts(prompts, WIDTH, VOCAB)


def test_a_model_that_does_not_generate_is_refused(small):
    model, variables = small
    with pytest.raises(UserError, match="does not generate"):
        run(model._replace(start=None), variables, [[1]], 2)


def test_the_repetition_penalty_lets_a_text_end_that_begins_with_an_end():
    logits = jnp.zeros(VOCAB).at[5].set(3.0).at[2].set(2.0)
    model, variables = model_of("transformer")
    constant = model._replace(
        start=lambda variables, rows, length: jnp.zeros(rows),
        step=lambda variables, carry, tokens: (jnp.tile(logits, (len(tokens), 1)), carry),
        read=None,
        prepare=None,
    )
    penalised = Sampling(repetition_penalty=2.0, temperature=0.0)
    texts, _ = run(constant, variables, [[2]], limit=6, sampling=penalised, ends=(2,))
    assert texts == [[2, 5]]  # 5 is penalized the second time, the end is not
