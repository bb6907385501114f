"""A run from Python: scores of texts and generation, against what the programs say."""

import dataclasses
import inspect
import math

import numpy as np
import pytest

import lm_jax
from lm_jax.config.experiment import EvaluationConfig, SamplesConfig
from lm_jax.errors import UserError
from lm_jax.objectives import OBJECTIVES
from lm_jax.runs import trained_run
from lm_jax.runs.trained_run import Run, evaluate_texts
from tests.models.jitted import jitted

TEXTS = ["1 times 4 is 4.\n", "", "\U0001f642", "na\u00efve " * 20, "3 times 6 is 18. " * 9]


@pytest.fixture(scope="module")
def run(language_model):
    return lm_jax.load(language_model)


@pytest.mark.parametrize("stride", [0, 8])
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


def test_a_text_has_the_same_scores_alone_and_among_others(run):
    together = run.log_probabilities(TEXTS)
    for text, expected in zip(TEXTS, together, strict=True):
        (alone,) = run.log_probabilities([text])
        np.testing.assert_allclose(
            alone.log_probabilities, expected.log_probabilities, rtol=1e-4, atol=1e-5
        )
    assert run.log_probabilities([]) == []


def test_continuations_are_scored_as_the_text_that_they_end(run):
    (whole,) = run.log_probabilities(["3 times 6 is 18"])
    scores = run.score(["3 times 6 is"], [" 18"])
    assert scores.nats[0] == pytest.approx(-whole.log_probabilities[-4:-1].sum(), rel=1e-5)


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
    options = {"temperature": 0.0, "num_beams": 3, "early_stopping": "never", "top_k": 2}
    given, others = run.generate(("a", ""), **options, seed=3, stop=["b"])
    assert given == (run, ["a", ""], SamplesConfig(num_samples=1, **options))
    assert others == {"seed": 3, "stop": ["b"], "truncate": False}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.log_probabilities("a"), "texts is one str; .* list of them: give .texts."),
        (lambda run: run.generate("a"), "prompts is one str; expected a list"),
        (lambda run: run.perplexity(["a", None]), r"texts\[1\] is a NoneType; expected a str"),
        (lambda run: run.perplexity([" ", ""]), "no text holds anything but white space"),
        (
            lambda run: run.log_probabilities(["a"], stride=33),
            "a stride of 33 with a context of 32",
        ),
        (lambda run: run.log_probabilities(["a"], stride=-1), "a stride of -1"),
        (lambda run: run.score(["a"], ["b", "c"]), "1 contexts and 2 continuations; give one"),
        (lambda run: run.score(["a"], [""]), "continuation 1 adds no token"),
        (lambda run: run.log_probabilities(["\ud800"]), "lone surrogate"),
        (lambda run: run.generate(["a"], temperature=-1), "samples.temperature is -1"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(run, call, message):
    with pytest.raises(UserError, match=message) as raised:
        call(run)
    assert "\n" not in str(raised.value)


def test_a_model_of_masked_tokens_scores_no_text(run):
    masked = dataclasses.replace(run, built=run.built._replace(objective=OBJECTIVES["masked_lm"]))
    with pytest.raises(UserError, match="by models that predict the next token"):
        masked.perplexity(["a"])


def test_a_run_says_in_a_line_what_it_is(run):
    assert repr(run).startswith(f"<Run {run.workdir}: transformer for causal_lm, ")
    assert repr(run).endswith(" parameters, step 5>") and len(repr(run)) < 300
    assert repr(run.log_probabilities(["ab"])[0]).startswith("<TextScores of 'ab': 3 tokens, -")
