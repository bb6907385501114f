"""Compares beam search with greedy and exhaustive search; tests/parity compares Hugging Face's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.generation.beam_search import EARLY_STOPPING, BeamSearch, beam_search
from lm_jax.generation.decode_loop import batch_of_prompts, generate
from lm_jax.generation.sampling import Sampling
from lm_jax.models import build_model
from tests.conftest import slow_but
from tests.generation.generating import FAMILIES, model_of, reader_of_a_source
from tests.generation.generating import VOCAB as SMALL
from tests.models.jitted import jitted
from tests.parity.hugging_face import ending_gpt2

VOCAB, END, NEW = 29, 7, 12
POWER, GNMT = (0.7, "power"), (1.5, "gnmt")
SEARCH = jax.jit(beam_search, static_argnames=("model", "search", "end_tokens", "prefix_length"))


@pytest.fixture(scope="module")
def gpt2():
    """Returns a GPT-2 of two layers and width 16 that often ends a text, and its variables."""
    pair = ending_gpt2(VOCAB, END)
    return build_model(pair.config, jnp.float32), pair.variables


@pytest.fixture(scope="module")
def prompts():
    return fifty_prompts()


def fifty_prompts():
    """Returns prompts of 1 to 8 random tokens that do not end the text."""
    rng = np.random.default_rng(0)
    others = [token for token in range(VOCAB) if token != END]
    return [rng.choice(others, rng.integers(1, 9)).tolist() for _ in range(50)]


def ours(model, variables, prompts, search, limit=NEW, ends=(END,), **how):
    """Returns the n-best [(tokens, score, log-probability)] of each prompt, ends included."""
    longest = max(map(len, prompts))
    tokens, lengths = batch_of_prompts(prompts, longest + limit, 10**6)
    beams = SEARCH(
        model, variables, tokens, lengths, lengths + limit, search=search, end_tokens=ends, **how
    )
    beams = jax.tree.map(np.asarray, beams)
    return [
        [
            (row[: length + end].tolist(), score, log_p)
            for row, length, end, log_p, score in zip(*texts, strict=True)
            if score > -np.inf
        ]
        for texts in zip(*beams[:-1], strict=True)
    ]


def test_the_kinds_of_early_stopping_find_different_texts(gpt2, prompts):
    model, variables = gpt2
    kinds = [
        ours(model, variables, prompts, BeamSearch(4, 1.0, "power", kind))
        for kind in EARLY_STOPPING
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        differ = sum(
            [t for t, *_ in a] != [t for t, *_ in b]
            for a, b in zip(kinds[one], kinds[other], strict=True)
        )
        assert differ >= 3
    ended = [text[-1] == END for texts in kinds[0] for text, *_ in texts]
    assert 0.1 < np.mean(ended) < 0.95


@pytest.mark.parametrize("name", FAMILIES)
def test_one_beam_is_the_greedy_text_of_every_family(name):
    model, variables = model_of(name)
    prompts, ends = [[1, 2, 3], [4], [5, 6]], (3, 11)
    tokens, lengths = batch_of_prompts(prompts, 20, SMALL)
    greedy = jax.jit(generate, static_argnames=("model", "sampling", "end_tokens"))(
        model,
        variables,
        tokens,
        lengths,
        lengths + NEW,
        jax.random.split(jax.random.key(0), 3),
        sampling=Sampling(temperature=0),
        end_tokens=ends,
    )
    found = ours(model, variables, prompts, BeamSearch(1), ends=ends)
    sums = np.asarray(greedy.log_probabilities).sum(axis=1)
    for index, [(text, score, log_p)] in enumerate(found):
        length = greedy.lengths[index]
        assert text[:length] == greedy.tokens[index, :length].tolist()
        new = len(text) - len(prompts[index])
        np.testing.assert_allclose([log_p, score], [sums[index], sums[index] / new], atol=1e-4)


def confined(model, allowed):
    """Returns the model with all other tokens so improbable that no search finds them."""
    bias = jnp.full(SMALL, -200.0).at[jnp.array(allowed)].set(0.0)

    def step(variables, carry, tokens):
        logits, carry = model.step(variables, carry, tokens)
        return logits + bias, carry

    return model._replace(step=step, read=None), bias


def every_text(length, others, end):
    """Returns all continuations of a prompt: ended texts, and texts of the full length."""
    for count in range(length):
        yield from ([*text, end] for text in itertools.product(others, repeat=count))
    yield from map(list, itertools.product(others, repeat=length))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("penalty", "kind"), slow_but([POWER, GNMT], POWER))
def test_enough_beams_find_the_best_of_all_texts(name, penalty, kind):
    model, variables = model_of(name)
    model, bias = confined(model, [2, 5, 11])
    prompt, end, length = [5, 2], 11, 4
    texts = list(every_text(length, (2, 5), end))
    padded = jnp.array([prompt + text + [0] * (length - len(text)) for text in texts])
    logits, _ = jitted(model).apply(variables, {"inputs": padded}, train=False)
    log_p = np.asarray(jax.nn.log_softmax(logits + bias))
    scores = {}
    for text, row in zip(texts, log_p, strict=True):
        total = sum(row[len(prompt) - 1 + i, token] for i, token in enumerate(text))
        divisor = len(text) if kind == "power" else (5 + len(text)) / 6
        scores[(*prompt, *text)] = total / divisor**penalty
    expected = sorted(scores.items(), key=lambda pair: -pair[1])[:5]
    search = BeamSearch(SMALL, penalty, kind, "never")
    (found,) = ours(model, variables, [prompt], search, limit=length, ends=(end,))
    assert [tuple(text) for text, *_ in found[:5]] == [text for text, _ in expected]
    np.testing.assert_allclose(
        [score for _, score, _ in found[:5]], [score for _, score in expected], atol=1e-4
    )


def test_a_result_does_not_depend_on_other_prompts_or_on_the_prefix():
    model, variables = reader_of_a_source()
    prompts, sources = [[1, 2, 3, 4], [5, 6, 7]], jnp.array([[3, 8, 1], [4, 9, 9]])
    source = {"source": sources, "source_segments": jnp.ones_like(sources)}
    texts = lambda found: [[text for text, *_ in best] for best in found]  # noqa: E731
    together = texts(ours(model, variables, prompts, BeamSearch(4), source=source))
    at_once = ours(model, variables, prompts, BeamSearch(4), source=source, prefix_length=2)
    assert texts(at_once) == together
    by_steps = ours(
        model._replace(read=None),
        variables,
        prompts,
        BeamSearch(4),
        source=source,
        prefix_length=2,
    )
    assert texts(by_steps) == together
    for index in (0, 1):
        part = jax.tree.map(lambda x, i=index: x[i : i + 1], source)
        alone = ours(model, variables, [prompts[index]], BeamSearch(4), source=part)
        assert texts(alone) == [together[index]]


def test_tokens_that_are_read_in_vain_change_no_beam(gpt2, prompts):
    model, variables = gpt2
    long = [prompt for prompt in prompts if len(prompt) > 4]
    by_token = ours(model, variables, long, BeamSearch(4))
    at_once = ours(model, variables, long, BeamSearch(4), prefix_length=8, surplus=4)
    assert len(long) > 10
    for expected, found in zip(by_token, at_once, strict=True):
        assert [text for text, *_ in found] == [text for text, *_ in expected]


def test_any_of_several_end_tokens_ends_a_text(gpt2, prompts):
    model, variables = gpt2
    found = ours(model, variables, prompts, BeamSearch(4, 0.0), ends=(END, 3, 12))
    last = {text[-1] for best in found for text, *_ in best if len(text) < NEW}
    assert {END, 3, 12} & last and all(
        not {END, 3, 12} & set(text[len(prompt) : -1])
        for prompt, best in zip(prompts, found, strict=True)
        for text, *_ in best
    )


def test_the_steps_of_a_search_lead_to_its_texts(gpt2, prompts):
    model, variables = gpt2
    tokens, lengths = batch_of_prompts(prompts[:5], 24, VOCAB)
    beams = SEARCH(
        model,
        variables,
        tokens,
        lengths,
        lengths + NEW,
        search=BeamSearch(4, early_stopping="never"),
        end_tokens=(END,),
    )
    beams = jax.tree.map(np.asarray, beams)
    for row, (length, limit) in enumerate(zip(lengths, lengths + NEW, strict=True)):
        paths = {(): 0.0}  # every beam of every step, read backwards along its parents
        for column in range(length, limit):
            for beam, log_p in enumerate(beams.steps.log_probabilities[row, column]):
                text, at = [], beam
                if log_p == -np.inf:
                    continue
                for back in range(column, length - 1, -1):
                    text.append(int(beams.steps.tokens[row, back, at]))
                    at = beams.steps.parents[row, back, at]
                paths[tuple(reversed(text))] = log_p
        for best in range(4):
            text = tuple(beams.tokens[row, best, length : beams.lengths[row, best]].tolist())
            if beams.ended[row, best]:
                assert paths[text] > beams.log_probabilities[row, best]
            else:
                assert text[:-1] in paths


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (BeamSearch(30), "num_beams is 30, more than the vocabulary of 29 tokens"),
        (BeamSearch(0), "num_beams is 0; expected at least 1"),
        (BeamSearch(length_penalty_kind="log"), "length_penalty_kind is 'log'; expected one of"),
        (BeamSearch(early_stopping="no"), "early_stopping is 'no'; expected one of false, true"),
    ],
)
def test_invalid_searches_are_refused(gpt2, search, message):
    with pytest.raises(UserError, match=message):
        ours(*gpt2, [[1]], search)
