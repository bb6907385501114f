"""A run from Python: scores of texts and generation, against what the programs say."""

import dataclasses
import inspect
import math
import re

import jax
import numpy as np
import pytest

import lm_jax
from lm_jax.analysis.text_scores import TextScores
from lm_jax.config.experiment import EvaluationConfig, SamplesConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.token_scores import Scored, score_sequences
from lm_jax.objectives import OBJECTIVES
from lm_jax.runs import trained_run
from lm_jax.runs.evaluate import evaluate_texts, scorer_of
from lm_jax.runs.trained_run import Run
from tests.conftest import slow_but
from tests.models.jitted import jitted

TEXTS = ["1 times 4 is 4.\n", "", "\U0001f642", "na\u00efve " * 20, "3 times 6 is 18. " * 9]


@pytest.fixture(scope="module")
def run(language_model):
    return lm_jax.load(language_model)


@pytest.mark.parametrize("stride", slow_but([0, 8], 8))
def test_log_probabilities_sum_to_what_evaluate_says(run, stride):
    scores = run.log_probabilities(TEXTS, stride=stride)
    for text, each in zip(TEXTS, scores, strict=True):
        assert each.text == text and len(each.tokens) == len(text.encode()) + 1
        assert each.log_probabilities.shape == each.tokens.shape and each.tokens[-1] == 256
    kept = [each for each in scores if each.text]
    config = EvaluationConfig(batch_size=8, stride=stride)
    figures = evaluate_texts(run, {"texts": [each.text for each in kept]}, eval_config=config)
    nats = -sum(each.total for each in kept)
    assert nats == pytest.approx(figures["texts"]["nats"], rel=1e-6)
    assert sum(len(each.tokens) for each in kept) == figures["texts"]["tokens"]
    found = run.perplexity(TEXTS, stride=stride)
    assert found == pytest.approx(figures["texts"]["perplexity"], rel=1e-6)
    assert scores[0].perplexity == pytest.approx(math.exp(-scores[0].total / 17))


def test_a_text_is_read_behind_what_opens_it_and_ends_as_before(run):
    text, opened = "1 times 4 is 4.", run.tokenizer._replace(opening=65)
    behind = dataclasses.replace(run, tokenizer=opened)
    ids = np.array([65, *text.encode(), 256], np.int32)
    (expected,) = score_sequences(scorer_of(run), [Scored(ids)])
    (scores,) = behind.log_probabilities([text])
    np.testing.assert_allclose(-scores.log_probabilities, expected.nats, rtol=1e-5, atol=1e-6)
    (before,) = run.log_probabilities([text])
    assert abs(before.total - scores.total) > 1e-3 and scores.tokens[-1] == 256
    figures = evaluate_texts(behind, {"t": [text]}, eval_config=EvaluationConfig(batch_size=8))
    assert figures["t"]["nats"] == pytest.approx(expected.nats.sum(), rel=1e-5)
    assert behind.hidden_states([text])[0].tokens.tolist() == ids[:-1].tolist()


def test_a_text_has_the_same_scores_alone_and_among_others(run):
    together = run.log_probabilities(TEXTS)
    for text, expected in zip(TEXTS, together, strict=True):
        (alone,) = run.log_probabilities([text])
        np.testing.assert_allclose(
            alone.log_probabilities, expected.log_probabilities, rtol=1e-4, atol=1e-5
        )
    assert run.log_probabilities([]) == []


@pytest.mark.slow
def test_a_shorter_context_is_that_of_evaluation(run):
    config = EvaluationConfig(batch_size=8, context_length=16)
    figures = evaluate_texts(run, {"texts": TEXTS}, eval_config=config)["texts"]
    assert run.perplexity(TEXTS, context_length=16) == pytest.approx(figures["perplexity"])


def test_continuations_are_scored_as_the_text_that_they_end(run):
    (whole,) = run.log_probabilities(["3 times 6 is 18"])
    scores = run.score(["3 times 6 is"], [" 18"])
    assert scores.nats[0] == pytest.approx(-whole.log_probabilities[-4:-1].sum(), rel=1e-5)


@pytest.mark.slow  # the states are compared by hand below, and the sums with evaluation's above
def test_a_token_is_scored_from_the_logits_of_the_token_before_it(run):
    (scores,) = run.log_probabilities(["3 times 6"])
    inputs = np.array([[256, *b"3 times 6"]], np.int32)
    apply = jitted(run.model).apply
    logits, _ = apply(run.variables, {"inputs": inputs}, train=False, key=None)
    logits = np.asarray(logits[0], np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = expected[np.arange(10), scores.tokens]
    np.testing.assert_allclose(scores.log_probabilities, found, rtol=1e-5)
    assert scores.pieces == [*"3 times 6", ""]
    assert run.log_probabilities(["a\U0001f642b"])[0].offsets.tolist() == [
        [0, 1],
        *([1, 2],) * 4,
        [2, 3],
        [3, 3],
    ]


def test_generate_takes_the_options_of_the_program(run, monkeypatch):
    defaults = dataclasses.asdict(SamplesConfig(num_samples=1))
    for name, parameter in inspect.signature(Run.generate).parameters.items():
        if name in defaults:
            assert parameter.default == defaults.pop(name)
    assert defaults.keys() == {"prompt"}

    def complete(*given, **options):
        return given, options

    monkeypatch.setattr(trained_run, "complete", complete)
    options = {"length_penalty": 0.0, "num_beams": 3, "early_stopping": "never"}
    given, others = run.generate(("a", ""), **options, seed=3, stop=["b"])
    assert given == (run, ["a", ""], SamplesConfig(num_samples=1, **options))
    assert others == {"seed": 3, "stop": ["b"], "truncate": False, "begins": True}


def normed(x, norm):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * norm["scale"] + norm["bias"]


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def by_hand(params, tokens):
    """The states and the attention of the run's Transformer, GPT-2's choices, in NumPy."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = p["embedding"][tokens] + p["positions"][: len(tokens)]
    states, maps = [x], []
    for number in range(2):
        layer = jax.tree.map(lambda x, number=number: x[number], p["layers"])
        y = normed(x, layer["attention_norm"])
        q, k, v = (
            dense(y, layer["attention"][name]).reshape(len(tokens), 4, 8).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = np.where(np.tri(len(tokens)), q @ k.swapaxes(1, 2) / np.sqrt(8), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        maps.append(weights / weights.sum(-1, keepdims=True))
        mixed = (maps[-1] @ v).swapaxes(0, 1).reshape(len(tokens), 32)
        x = x + dense(mixed, layer["attention"]["output"])
        up = dense(normed(x, layer["feed_forward_norm"]), layer["feed_forward"]["up"])
        gelu = up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))) / 2
        x = x + dense(gelu, layer["feed_forward"]["down"])
        states.append(x)
    states[-1] = normed(x, p["final_norm"])
    return np.array(states), np.array(maps)


def test_hidden_states_and_attention_are_those_of_a_forward_pass_by_hand(run):
    text = "3 times 6 is 18. " * 4
    tokens = np.array([256, *text.encode()])
    first, second, third = run.hidden_states([text, "", "\U0001f642"])
    windows = [tokens[:32], tokens[32:64], tokens[64:]]
    expected = [by_hand(run.variables["params"], window) for window in windows]
    np.testing.assert_array_equal(first.tokens, tokens)
    states = np.concatenate([states for states, _ in expected], axis=1)
    np.testing.assert_allclose(first.states_ltd, states, rtol=1e-4, atol=1e-5)
    assert first.offsets[:3].tolist() == [[0, 0], [0, 1], [1, 2]]
    assert second.tokens.tolist() == [256] and second.states_ltd.shape == (3, 1, 32)
    assert repr(third) == "<TextStates of 1 character: (3, 5, 32)>"

    found = run.attention(text[:31])
    np.testing.assert_allclose(found.weights, expected[0][1], atol=1e-5)
    assert found.maps["decoder"].queries[:3] == ["<end>", "3", "\u00b7"]
    assert repr(found) == "<TextAttention of decoder (2, 4, 32, 32)>"
    assert found._repr_html_().count("data:image/png") == 8
    with pytest.raises(UserError, match="the text has 33 tokens .* reads 32 at once: shorten it"):
        run.attention(text[:32])
    with pytest.raises(UserError, match="no encoder to read a source: leave source out"):
        run.attention("a", source="b")
    vectors = run.embed([text[:9], ""])
    own = states[-1, 1:10].mean(axis=0)
    np.testing.assert_allclose(vectors, [own, second.states_ltd[-1, 0]], rtol=1e-4, atol=1e-5)
    last = run.embed([text[:9]], pooling="last", layer=1)
    np.testing.assert_allclose(last, states[1, 9:10], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.log_probabilities("a"), "texts is one str; .* list of them: give .texts."),
        (lambda run: run.generate("a"), "prompts is one str; expected a list"),
        (lambda run: run.perplexity(["a", None]), r"texts\[1\] is a NoneType; expected a str"),
        (lambda run: run.perplexity([" ", ""]), "no text holds anything but white space"),
        (
            lambda run: run.log_probabilities(["a"], stride=33),
            "a stride of 33 with a context of 32 .*; expected 1 to 32, or 0 for disjoint",
        ),
        (
            lambda run: run.perplexity(["a"], stride=-1),
            "a stride of -1 .* expected 1 to 32, or 0 for disjoint windows",
        ),
        (lambda run: run.embed("a"), "texts is one str"),
        (lambda run: run.embed([]), "no texts to embed"),
        (lambda run: run.embed(["a"], pooling="max"), "pooling is 'max'; expected one of mean, "),
        (lambda run: run.embed(["a"], layer=3), "layer 3 is asked for; expected 0, .* to 2, or -1"),
        (lambda run: run.attention(["a"]), r"text\[0\] is a list; expected a str"),
        (lambda run: run.score(["a"], ["b", "c"]), "1 context and 2 continuations are given"),
        (lambda run: run.score(["a"], [""]), "continuation 1 adds no token"),
        (
            lambda run: run.perplexity(["a"], context_length=33),
            "context_length is 33; expected 1 to 32, which the model reads, or 0 for 32",
        ),
        (lambda run: run.log_probabilities(["\ud800"]), "lone surrogate"),
        (lambda run: run.generate(["a"], temperature=-1), "samples.temperature is -1"),
        (
            lambda run: run.generate(["a"], num_beams=2, temperature=0.5, top_k=3),
            "temperature and top_k apply to samples, and num_beams=2 searches",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(run, call, message):
    with pytest.raises(UserError, match=message) as raised:
        call(run)
    assert "\n" not in str(raised.value)
    assert raised.value._render_traceback_() == [f"UserError: {raised.value}"]  # in a notebook


def test_a_model_of_masked_tokens_scores_no_text(run):
    masked = dataclasses.replace(run, built=run.built._replace(objective=OBJECTIVES["masked_lm"]))
    with pytest.raises(UserError, match="by models that predict the next token"):
        masked.perplexity(["a"])


def test_a_scored_text_is_coloured_by_what_its_tokens_cost():
    text = "<b> \U0001f642 x"
    offsets = np.array([[0, 3], [3, 4], *([[4, 5]] * 3), [5, 7], [7, 7]])
    log_p = -np.array([5, 0, 1, 1, 0.5, 30, 2], np.float32)
    page = TextScores(text, np.arange(7), offsets, log_p)._repr_html_()
    found = re.findall(r'title="(.*?)" .*? / (\d+)%.*?>(.*?)</span>', page)
    assert found == [
        ("5.00 nats", "50", "&lt;b&gt;"),
        ("0.00 nats", "0", " "),
        ("1.00 + 1.00 + 0.50 nats", "25", "\U0001f642"),
        ("30.00 nats", "100", " x"),
        ("2.00 nats", "20", "\u2591"),
    ]
    assert "7 tokens with the end of the document, 39.50 nats, perplexity 282.27" in page


def test_a_run_says_in_a_line_what_it_is(run):
    assert repr(run).startswith(f"<Run {run.workdir}: transformer for causal_lm, ")
    assert repr(run).endswith(" parameters, step 5>") and len(repr(run)) < 300
    assert repr(run.log_probabilities(["ab"])[0]).startswith("<TextScores of 'ab': 3 tokens, -")
