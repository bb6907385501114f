import functools
import math
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.data.text.windows import evaluation_batches, training_batches
from lm_jax.data.token_stream import tokenize
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError
from lm_jax.generation.decode_loop import Sampling, generate
from lm_jax.models import build_model
from lm_jax.models.ngram import kneser_ney
from lm_jax.models.ngram.model import NgramConfig, ngram

SMOOTHINGS = ("kneser_ney", "add_k", "maximum_likelihood")
LICENCE = (Path(__file__).parents[3] / "LICENSE").read_text()
PARAGRAPHS = [" ".join(text.split()) for text in LICENCE.split("\n\n")]


def split_of(documents, end):
    """Documents of token ids as a split: end doc end doc ... end."""
    lengths = [len(document) + 1 for document in documents]
    stream = [end] + [token for document in documents for token in (*document, end)]
    return SimpleNamespace(tokens=np.array(stream), starts=np.cumsum([0, *lengths]))


class ByHand:
    """Interpolated modified Kneser-Ney in dictionaries, as Chen & Goodman 1998 write it."""

    def __init__(self, documents, order, vocab_size):
        occurrences = Counter()
        for document in documents:
            words = ["<s>", *document, "</s>"]
            for last in range(1, len(words)):
                for first in range(max(0, last - order + 1), last + 1):
                    occurrences[tuple(words[first : last + 1])] += 1
        left = defaultdict(set)
        for gram in occurrences:
            left[gram[1:]].add(gram[0])
        self.followers = defaultdict(dict)
        for gram, times in occurrences.items():
            counts_text = len(gram) == order or gram[0] == "<s>"
            self.followers[gram[:-1]][gram[-1]] = times if counts_text else len(left[gram])
        self.discounts = [self._discounts(n) for n in range(1, order + 1)]
        self.kinds = len(self.followers[()])
        self.unseen, self.order = vocab_size - self.kinds, order

    def _discounts(self, n):
        counts = [
            c for h, table in self.followers.items() if len(h) == n - 1 for c in table.values()
        ]
        n1, n2, n3, n4 = (counts.count(times) for times in (1, 2, 3, 4))
        if 0 in (n1, n2, n3):
            return 0, 0.5, 1, 1.5
        y = n1 / (n1 + 2 * n2)
        found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
        return (0, *found) if min(found) > 0 else (0, 0.5, 1, 1.5)

    def probability(self, word, context):
        table = self.followers.get(context, {})
        if context:
            lower = self.probability(word, context[1:])
        elif self.unseen:
            lower = 1 / (self.kinds + 1) / (1 if word in table else self.unseen)
        else:
            lower = 1 / self.kinds
        if not table:
            return lower
        discounts = self.discounts[len(context)]
        total = sum(table.values())
        mass = sum(discounts[min(times, 3)] for times in table.values())
        times = table.get(word, 0)
        return (times - discounts[min(times, 3)] + mass * lower) / total

    def nats(self, document):
        words = ["<s>", *document, "</s>"]
        first = [max(0, last - self.order + 1) for last in range(len(words))]
        return [
            -math.log(self.probability(words[last], tuple(words[first[last] : last])))
            for last in range(1, len(words))
        ]


def row_of(params, gram):
    """Where a trie keeps an n-gram, by walking it; None where it does not."""
    row = gram[0]
    for n, word in enumerate(gram[1:], 2):
        first, last = params[f"level_{n - 1}"]["first_child"][row : row + 2]
        children = params[f"level_{n}"]["word"][first:last].tolist()
        if word not in children:
            return None
        row = first + children.index(word)
    return row


def distribution(params, context, floor):
    """p of every word after a context, read from the trie by hand."""
    log_p = params["level_1"]["log_probability"].astype(np.float64)
    for n in range(1, len(context) + 1):
        if floor is not None:
            log_p = np.full_like(log_p, floor)
        row = row_of(params, context[-n:])
        if row is None:
            continue
        log_p = log_p + params[f"level_{n}"]["log_back_off"][row]
        first, last = params[f"level_{n}"]["first_child"][row : row + 2]
        children = params[f"level_{n + 1}"]
        log_p[children["word"][first:last]] = children["log_probability"][first:last]
    return np.exp(log_p)


def fitted(documents, vocab_size, **fields):
    """A jitted model that has counted documents whose end is the last id of the vocabulary."""
    config = NgramConfig(vocab_size, **{"order": 3} | fields)
    model = ngram(config)
    variables = model.fit(split_of(documents, vocab_size - 1))
    model = model._replace(
        apply=quickly_jitted(model.apply, static_argnames="train"),
        loss=quickly_jitted(model.loss, static_argnames="train"),
        step=quickly_jitted(model.step),
    )
    return model, variables


# Compiling takes most of the time of these tests.
quickly_jitted = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_documents(vocab_size=7, seed=0, lengths=(30, 0, 12, 60)):
    """Documents in which some ids below the end's never occur."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size - 2, n).tolist() for n in lengths]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_probabilities_of_every_context_sum_to_one(data):
    vocab_size = data.draw(st.integers(2, 6))
    words = st.lists(st.integers(0, vocab_size - 2), max_size=12)
    documents = data.draw(st.lists(words, min_size=1, max_size=5))
    longest = max(map(len, documents)) + 2
    config = NgramConfig(
        vocab_size,
        order=data.draw(st.integers(1, min(8, longest))),
        smoothing=data.draw(st.sampled_from(SMOOTHINGS)),
        boundaries=data.draw(st.sampled_from(["document", "stream"])),
        k=data.draw(st.floats(1e-3, 10)),
    )
    split = split_of(documents, vocab_size - 1)
    params = jax.tree.map(np.asarray, ngram(config).fit(split)["params"])
    floor = -math.log(vocab_size) if config.smoothing == "add_k" else None
    contexts = [split.tokens[max(0, i - config.order + 1) : i] for i in range(len(split.tokens))]
    contexts.append(np.array(data.draw(words)[: config.order - 1], int))
    for context in contexts:
        found = distribution(params, context.tolist(), floor)
        assert found.sum() == pytest.approx(1, abs=2e-6)
        if config.smoothing != "maximum_likelihood":
            assert found.min() > 0


@pytest.mark.parametrize(("order", "unseen"), [(1, 0), (2, 1), (3, 0), (3, 3), (5, 1), (8, 0)])
def test_kneser_ney_equals_dictionaries(order, unseen):
    texts = [list(text.encode()) for text in PARAGRAPHS]
    kinds = sorted(set().union(*texts[:24]))
    number = {byte: i for i, byte in enumerate(kinds)}
    documents = [[number[byte] for byte in text] for text in texts[:24]]
    test = [[number.get(byte, 0) for byte in text] for text in texts[24:28]]
    test += [[]] + [[len(kinds)]] * (unseen > 0)
    vocab_size = len(kinds) + unseen + 1  # the unseen ids stand before the end
    model, variables = fitted(documents, vocab_size, order=order)
    by_hand, end = ByHand(documents, order, vocab_size), vocab_size - 1
    found, expected = [], []
    for document in test:
        batch = {"inputs": [[end, *document]], "targets": [[*document, end]]}
        losses, _ = model.loss(variables, jax.tree.map(jnp.asarray, stacked(batch)), train=False)
        found += np.asarray(losses.nats)[0, : len(document) + 1].tolist()
        expected += by_hand.nats(document)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert sum(found) == pytest.approx(sum(expected), rel=1e-6)


def stacked(batch, time=2048):
    """A batch of one row, as long as all others: one compilation."""
    return {name: np.pad(rows, ((0, 0), (0, time - len(rows[0])))) for name, rows in batch.items()}


@pytest.mark.parametrize("smoothing", ["add_k", "maximum_likelihood"])
@pytest.mark.parametrize("boundaries", ["document", "stream"])
def test_counted_probabilities_equal_ratios_of_counts(smoothing, boundaries):
    documents, vocab_size, k = random_documents(), 7, 0.3
    model, variables = fitted(
        documents, vocab_size, smoothing=smoothing, boundaries=boundaries, k=k
    )
    end = vocab_size - 1
    split = split_of(documents, end)
    streams = [split.tokens.tolist()]
    if boundaries == "document":
        streams = [[end, *document, end] for document in documents]
    grams = Counter(
        tuple(stream[first : last + 1])
        for stream in streams
        for last in range(1, len(stream))
        for first in range(max(0, last - 2), last + 1)
    )
    contexts = Counter()
    for gram, times in grams.items():
        contexts[gram[:-1]] += times
    inputs = jnp.asarray([[end, 0, 1, 2, 3, 3, end, 4], [5, 5, 0, 4, 1, end, end, 2]])
    logits, _ = model.apply(variables, {"inputs": inputs}, train=False)
    for row, row_logits in zip(inputs.tolist(), np.exp(logits), strict=True):
        for t, found in enumerate(row_logits):
            context = tuple(row[max(0, t - 1) : t + 1])
            if boundaries == "document" and row[t] == end:
                context = (end,)
            if smoothing == "maximum_likelihood":
                while not contexts[context]:
                    context = context[1:]
                total = contexts[context]
                expected = [grams[(*context, word)] / total for word in range(vocab_size)]
            else:
                total = contexts[context] + k * vocab_size
                expected = [(grams[(*context, word)] + k) / total for word in range(vocab_size)]
            np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("smoothing", "order"),
    [("kneser_ney", 1), ("add_k", 2), ("maximum_likelihood", 3), ("kneser_ney", 4), ("add_k", 4)],
)
def test_step_loss_and_apply_agree_on_every_context(smoothing, order):
    documents = random_documents(lengths=(200, 0, 3, 40))
    model, variables = fitted(documents, 7, smoothing=smoothing, order=order)
    tokens = np.array([[a, b, c] for a in range(7) for b in range(7) for c in range(7)])
    batch = {"inputs": jnp.asarray(tokens)}
    logits, _ = model.apply(variables, batch, train=False)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=2e-6)
    for word in range(7):
        targets = jnp.full_like(batch["inputs"], word)
        losses, _ = model.loss(variables, batch | {"targets": targets}, train=True)
        np.testing.assert_allclose(losses.nats, -logits[..., word], rtol=1e-6)
        np.testing.assert_array_equal(losses.correct, logits.argmax(-1) == word)
    carry = model.start(variables, len(tokens), 3)
    for t in range(3):
        step_logits, carry = model.step(variables, carry, batch["inputs"][:, t])
        np.testing.assert_allclose(step_logits, logits[:, t], rtol=1e-6)


@pytest.mark.parametrize(
    ("smoothing", "boundaries"),
    [("kneser_ney", "document"), ("add_k", "stream"), ("maximum_likelihood", "stream")],
)
def test_a_packed_document_sees_nothing_of_its_neighbours(smoothing, boundaries):
    model, variables = fitted(
        random_documents(), 7, smoothing=smoothing, boundaries=boundaries, order=4
    )
    row = np.array(random_documents(seed=5, lengths=(12,))[0])
    inputs = np.stack([row, row, np.roll(row, -5), row])  # packed, first alone, second alone, one
    segments = np.stack([[1] * 5 + [2] * 7, [1] * 5 + [0] * 7, [1] * 7 + [0] * 5, [1] * 12])
    batch = {"inputs": jnp.asarray(inputs), "segments": jnp.asarray(segments)}
    packed, first, second, leaking = model.apply(variables, batch, train=False)[0]
    np.testing.assert_array_equal(packed[:5], first[:5])
    np.testing.assert_array_equal(packed[5:], second[:7])
    assert (leaking[5:8] != packed[5:8]).any()


def test_an_end_token_hides_the_document_before_it_unless_boundaries_are_the_stream():
    documents = [[0, 1], [2, 3], [0, 1], [2, 4], [3], [1]] * 3
    inputs = jnp.asarray([[0, 1, 5], [3, 2, 5], [5, 1, 5]])
    found = {}
    for boundaries in ("document", "stream"):
        model, variables = fitted(documents, 6, boundaries=boundaries)
        logits, _ = model.apply(variables, {"inputs": inputs}, train=False)
        found[boundaries] = np.exp(logits)
    after_end = found["document"][:, 2]
    np.testing.assert_array_equal(after_end, [found["document"][2, 0]] * 3)
    after_1_end = found["stream"][0, 2]
    assert after_1_end.argmax() == 2  # two of three documents that end in 1 precede [2, ...]
    assert after_1_end[2] > 1.5 * after_end[0, 2]


def test_one_document_is_counted_alike_under_both_boundaries():
    documents = random_documents(lengths=(80,))
    both = [fitted(documents, 7, boundaries=b)[1]["params"] for b in ("document", "stream")]
    for name in ("level_0", "level_1", "level_2", "level_3"):
        jax.tree.map(np.testing.assert_array_equal, *(params[name] for params in both))


def test_a_window_inside_a_document_backs_off_without_a_start():
    documents = random_documents()
    model, variables = fitted(documents, 7, order=3)
    by_hand = ByHand(documents, 3, 7)
    inputs = jnp.asarray([[2, 3, 1]])
    for word in (0, 1, 2, 3, 4, 5, "</s>"):
        targets = jnp.full_like(inputs, 6 if word == "</s>" else word)
        losses, _ = model.loss(variables, {"inputs": inputs, "targets": targets}, train=False)
        for nats, context in zip(losses.nats[0], [(2,), (2, 3), (3, 1)], strict=True):
            expected = by_hand.probability(word, context)
            assert np.exp(-nats) == pytest.approx(expected, rel=1e-5)


def test_windows_with_enough_context_cost_what_whole_documents_do():
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
    train, test = (tokenize(tokenizer, part) for part in (PARAGRAPHS[:24], PARAGRAPHS[24:30]))
    model = ngram(NgramConfig(tokenizer.vocab_size, order=5))
    variables, loss = model.fit(train), quickly_jitted(model.loss, static_argnames="train")
    by_hand = ByHand([list(t.encode()) for t in PARAGRAPHS[:24]], 5, tokenizer.vocab_size)
    expected = sum(sum(by_hand.nats(list(text.encode()))) for text in PARAGRAPHS[24:30])
    total = 0.0
    for batch in evaluation_batches(test, context_length=32, batch_size=8, stride=28):
        batch.pop("documents")
        losses, _ = loss(variables, batch, train=False)
        total += np.asarray(losses.nats)[batch["weights"] > 0].astype(np.float64).sum()
    assert total == pytest.approx(expected, rel=1e-6)
    training = training_batches(train, context_length=32, batch_size=8, seed=0)[0]
    assert np.isfinite(loss(variables, training, train=False)[0].nats).all()


def test_long_ngrams_of_a_large_vocabulary_are_told_apart():
    rng = np.random.default_rng(0)
    words = rng.choice(rng.integers(0, 60_000, 40), 4_000).tolist()
    levels = kneser_ney.count(
        np.array([60_000, *words, 60_000]), np.array([0, 4_001]), 60_001, 8, across=False
    )
    stream = [60_000, *words, 60_000]
    for n, level in enumerate(levels[1:], 2):
        expected = Counter(tuple(stream[i : i + n]) for i in range(len(stream) - n + 1))
        assert len(level.word) == len(expected)
        assert sorted(level.occurrences.tolist()) == sorted(expected.values())


def test_sorting_does_not_depend_on_how_large_the_keys_are():
    keys = np.random.default_rng(0).integers(0, 50, 300)
    for offset in (0, 1 << 61):
        found, origin = kneser_ney._sort(keys + offset)
        np.testing.assert_array_equal(found, np.sort(keys) + offset)
        np.testing.assert_array_equal(keys[origin] + offset, found)


def test_discounts_come_from_counts_of_counts_or_fall_back():
    counts = np.repeat([0, 1, 2, 3, 4, 9], [5, 40, 20, 10, 6, 3])  # y = 1 / 2
    np.testing.assert_allclose(kneser_ney.discounts(counts), [0, 0.5, 1.25, 1.8])
    for broken in ([1, 1, 3, 4], [1, 2, 2, 4], [5, 6], [1, 2] + [3] * 50):
        np.testing.assert_array_equal(kneser_ney.discounts(np.array(broken)), [0, 0.5, 1, 1.5])


def test_maximum_likelihood_of_the_text_itself_is_its_conditional_entropy():
    """No event of the text is impossible, and any other event costs infinity."""
    documents = [[0, 1, 0, 2], [0, 1]]
    model, variables = fitted(documents, 5, order=2, smoothing="maximum_likelihood")
    batch = {"inputs": jnp.asarray([[4, 0, 1, 0, 2]]), "targets": jnp.asarray([[0, 1, 0, 2, 4]])}
    losses, _ = model.loss(variables, batch, train=False)
    expected = -np.log([1, 2 / 3, 1 / 2, 1 / 3, 1])
    np.testing.assert_allclose(losses.nats[0], expected, rtol=1e-6)
    batch = {"inputs": jnp.asarray([[4, 3]]), "targets": jnp.asarray([[1, 0]])}
    losses, _ = model.loss(variables, batch, train=False)
    assert losses.nats[0, 0] == math.inf
    assert losses.nats[0, 1] == pytest.approx(-math.log(3 / 8))  # 3 was never seen: unigrams


@pytest.mark.parametrize("order", [1, 3])
def test_a_model_that_counted_nothing_is_uniform(order):
    model = ngram(NgramConfig(9, order=order))
    batch = {"inputs": jnp.asarray([[1, 2, 3]]), "targets": jnp.asarray([[2, 3, 4]])}
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    losses, _ = quickly_jitted(model.loss, static_argnames="train")(variables, batch, train=False)
    np.testing.assert_allclose(losses.nats, math.log(9), rtol=1e-6)
    logits, _ = quickly_jitted(model.apply, static_argnames="train")(variables, batch, train=False)
    np.testing.assert_allclose(logits, -math.log(9), rtol=1e-6)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    fitted_ = model.fit(split_of([[1, 2, 3]], 8))["params"]
    assert jax.tree.structure(nn.unbox(shapes)) == jax.tree.structure(fitted_)


def test_greedy_decoding_recites_the_only_document():
    text = [0, 3, 1, 4, 1, 5, 2, 6]
    model = ngram(NgramConfig(8, order=4))
    variables = model.fit(split_of([text], 7))
    tokens = jnp.zeros((1, 12), jnp.int32).at[0, 0].set(7)
    one = jnp.array([1])  # each row's prompt is the end token, and it may become 12 long
    found = generate(
        model,
        variables,
        tokens,
        one,
        12 * one,
        jax.random.split(jax.random.key(0), 1),
        sampling=Sampling(temperature=0),
        end_tokens=(7,),
    )
    assert found.ended[0] and found.tokens[0, 1 : found.lengths[0]].tolist() == text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": 0}, "model.order is 0; expected 1 <= order <= 8"),
        ({"order": 9}, "model.order is 9; expected 1 <= order <= 8"),
        ({"smoothing": "witten_bell"}, "model.smoothing is 'witten_bell'; expected one of"),
        ({"boundaries": "line"}, "model.boundaries is 'line'; expected one of"),
        ({"k": 0.0}, "model.k is 0.0; expected above 0"),
        ({"context_length": 0}, "model.context_length is 0; expected at least 1"),
        ({"vocab_size": -1}, "model.vocab_size is -1; expected at least 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        build_model(NgramConfig(**fields), jnp.float32)


@pytest.mark.parametrize(
    ("documents", "vocab_size", "message"),
    [
        ([[1, 2], [1]], 4, "model.order is 5, but the longest text to count in has only 4 tokens"),
        ([[1, 2, 7, 1]], 4, "ids from 1 to 7.*below model.vocab_size 4"),
        ([], 4, "1 token to count"),
    ],
)
def test_text_that_cannot_be_counted_is_refused_in_one_line(documents, vocab_size, message):
    model = ngram(NgramConfig(vocab_size, order=5))
    with pytest.raises(UserError, match=message):
        model.fit(split_of(documents, 3))
    with pytest.raises(UserError, match="model.vocab_size is 0"):
        ngram(NgramConfig())
