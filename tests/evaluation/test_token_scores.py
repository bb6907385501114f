import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.data import TokenizerConfig, train_tokenizer
from lm_jax.errors import UserError
from lm_jax.evaluation import token_scores
from lm_jax.evaluation.token_scores import Scored, Scorer, score, score_sequences, split_pair
from lm_jax.models.interface import Model, loss_from_apply
from lm_jax.parallel import sharding

VOCABULARY = 257
TABLE = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)
LOG_P = np.array(jax.nn.log_softmax(jnp.asarray(TABLE)))


def _apply(variables, batch, *, train, key):
    """Logits of a bigram model that also reads the position, to show that it restarts."""
    logits = jnp.asarray(variables["table"])[batch["inputs"]]
    return logits * (1 + batch["positions"][..., None] / 100), {}


def scorer(max_length=None, apply=_apply):
    model = Model(init=lambda *_: {}, apply=apply, loss=loss_from_apply(apply))
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [""])
    mesh = sharding.make_mesh("data:2", jax.devices()[:2])
    return Scorer(model, {"table": TABLE}, mesh, tokenizer, VOCABULARY, max_length)


def expected(tokens, first):
    """The bigram table's nats of tokens from `first` on, and whether each is the best."""
    positions = np.arange(len(tokens) - 1)
    logits = TABLE[tokens[:-1]] * (1 + positions[:, None] / 100)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    nats = -log_p[positions, tokens[1:]][first - 1 :]
    return nats, (log_p.argmax(1) == tokens[1:])[first - 1 :]


def test_packed_sequences_have_the_losses_of_each_alone():
    random = np.random.default_rng(1)
    sequences = [
        Scored(
            random.integers(VOCABULARY, size=n + 1).astype(np.int32), int(random.integers(1, n + 1))
        )
        for n in (1, 2, 63, 64, 65, 90, 300, *random.integers(1, 40, 50))
    ] + [Scored(np.array([5], np.int32))]  # nothing to predict
    shown = []
    found = score_sequences(scorer(), sequences, lambda *done: shown.append(done))
    assert len(found[-1].nats) == 0 and shown[-1] == ("scored", len(sequences), len(sequences))
    for sequence, scores in zip(sequences[:-1], found, strict=False):
        nats, correct = expected(*sequence)
        np.testing.assert_allclose(scores.nats, nats, rtol=1e-5)
        np.testing.assert_array_equal(scores.correct, correct)


def test_many_lengths_take_few_shapes(monkeypatch):
    shapes = []

    def losses(loss, variables, batch):
        shapes.append(batch["inputs"].shape)
        return jnp.zeros(batch["inputs"].shape), jnp.zeros(batch["inputs"].shape)

    monkeypatch.setattr(token_scores, "_losses", losses)
    monkeypatch.setattr(token_scores, "_MOST_TOKENS", 1024)
    lengths = np.random.default_rng(0).integers(2, 500, 400)
    score_sequences(scorer(max_length=500), [Scored(np.zeros(n, np.int32)) for n in lengths])
    assert len(set(shapes)) <= 8 and max(width for _, width in shapes) == 500
    padding = 1 - (lengths - 1).sum() / sum(rows * width for rows, width in shapes)
    assert padding < 0.1


def test_a_context_too_long_loses_its_beginning():
    short = scorer(max_length=4)
    scores = score(short, ["abcdef"], ["gh"])
    nats, _ = expected(np.array(list(b"defgh"), np.int32), 3)
    assert scores.nats[0] == pytest.approx(nats.sum(), rel=1e-6) and scores.tokens[0] == 2
    with pytest.raises(UserError, match="continuation 1 has 5 tokens, .* at most 4"):
        score(short, [""], ["abcde"])
    with pytest.raises(UserError, match="continuation 2 adds no token"):
        score(short, ["a", "a"], ["b", ""])


def test_continuations_score_as_their_tokens_do_and_equal_ones_once(monkeypatch):
    calls = []
    real = token_scores.score_sequences
    monkeypatch.setattr(
        token_scores, "score_sequences", lambda s, q, show: calls.append(len(q)) or real(s, q, show)
    )
    best = bytes(LOG_P[:256, :256].argmax(1).tolist())
    contexts, continuations = ["ab ", "ab", "", "ab"], ["c", " c", "c", chr(best[ord("b")] % 128)]
    scores = score(scorer(), contexts, continuations)
    assert calls == [3] and scores.nats[0] == scores.nats[1]  # the space moved over
    assert scores.tokens.tolist()[:3] == [2, 2, 1]
    nats, _ = expected(np.array([256, *b"ab c"], np.int32), 3)
    assert scores.nats[0] == pytest.approx(nats.sum(), rel=1e-6)
    unopened = score(scorer(), ["ab", ""], ["c", "c"], begins=False)
    nats, _ = expected(np.array(list(b"abc"), np.int32), 2)
    assert unopened.nats[0] == pytest.approx(nats.sum(), rel=1e-6)
    assert unopened.nats[1] == pytest.approx(
        scores.nats[2], rel=1e-6
    )  # something has to come first


def test_greedy_continuations_are_those_of_the_best_tokens():
    table = scorer()
    follows = {a: int(LOG_P[a, :128].argmax()) for a in range(128)}
    variables = {"table": np.where(np.arange(VOCABULARY) < 128, TABLE, -9.0).astype(np.float32)}
    chain = list(itertools.accumulate(range(3), lambda a, _: follows[a], initial=ord("x")))[1:]
    right, wrong = "".join(map(chr, chain)), "".join(map(chr, [*chain[:-1], (chain[-1] + 1) % 128]))
    scores = score(table._replace(variables=variables), ["x", "x"], [right, wrong])
    assert scores.is_greedy.tolist() == [True, False]


def test_a_continuation_is_what_the_whole_text_adds_to_its_context():
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [""])
    context, continuation = split_pair(tokenizer, "é \n", "x")
    assert context.tolist() == [256, *"é".encode()] and bytes(continuation.tolist()) == b" \nx"
    context, continuation = split_pair(tokenizer, "", "x", begins=False)
    assert context.tolist() == [256] and continuation.tolist() == [ord("x")]
    context, continuation = split_pair(tokenizer._replace(opening=7), "a", "x")
    assert context.tolist() == [7, ord("a")] and continuation.tolist() == [ord("x")]
