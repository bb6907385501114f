import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.data import TokenizerConfig, tokenize, train_tokenizer
from lm_jax.data.text.skip_gram_batches import evaluation_pairs, training_pairs
from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.parallel.sharding import unboxed
from tests.models.jitted import jitted

CONFIG = TokenizerConfig("whitespace", 50)
TEXTS = ["the cat sat on the mat", "a dog", "one", "the dog sat on a log " * 4]
WORDS = train_tokenizer(CONFIG, TEXTS)
DOCUMENTS = tokenize(WORDS, TEXTS)


def all_pairs(window):
    pairs = []
    for text in TEXTS:
        ids = WORDS.encode(text).tolist()
        pairs += [
            (a, b)
            for i, a in enumerate(ids)
            for j, b in enumerate(ids)
            if i != j and abs(i - j) <= window
        ]
    return sorted(pairs)


def test_evaluation_counts_every_pair_of_a_document_once():
    found = []
    for batch in evaluation_pairs(DOCUMENTS, window=3, batch_size=16):
        kept = batch["weights"] > 0
        found += list(zip(batch["inputs"][kept], batch["targets"][kept], strict=True))
    assert sorted((int(a), int(b)) for a, b in found) == all_pairs(3)


def test_a_split_without_a_pair_is_refused():
    alone = tokenize(WORDS, ["one", "dog"])
    with pytest.raises(UserError, match="no document of the validation split has two words"):
        evaluation_pairs(alone, window=3, batch_size=16)


def test_training_pairs_are_drawn_near_words_more_often_and_only_inside_documents():
    batches = training_pairs(
        DOCUMENTS, vocab_size=WORDS.vocab_size, window=2, subsampling=0, batch_size=4096, seed=0
    )
    batch = batches[5]
    np.testing.assert_array_equal(batch["inputs"], batches[5]["inputs"])
    drawn = set(zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True))
    assert drawn == set(all_pairs(2))
    cat, sat, the = (int(WORDS.encode(word)[0]) for word in ("cat", "sat", "the"))
    beside = np.sum((batch["inputs"] == cat) & (batch["targets"] == sat))
    two_away = np.sum((batch["inputs"] == cat) & (batch["targets"] == int(WORDS.encode("on")[0])))
    assert beside / two_away == pytest.approx(2, rel=0.35)  # windows of 1 and 2, equally often
    assert np.sum(batch["inputs"] == the) > np.sum(batch["inputs"] == cat)


def test_subsampling_keeps_pairs_by_the_frequency_of_both_words():
    """Every other word is `the`: it is kept with k = sqrt(t / f), all others always."""
    text = " ".join(f"the w{i}" for i in range(500))
    words = train_tokenizer(TokenizerConfig("whitespace", 600), [text])
    pairs = training_pairs(
        tokenize(words, [text]),
        vocab_size=words.vocab_size,
        window=2,
        subsampling=0.01,
        batch_size=1 << 14,
        seed=0,
    )
    found = np.mean(pairs[0]["inputs"] == int(words.encode("the")[0]))
    k = np.sqrt(0.01 * 1002 / 500)  # of 1,002 tokens, with both ends
    beside, apart = 2 / 3, 1 / 3  # distance 1 is drawn twice as often as distance 2
    kept = beside * k + apart * (k**2 + 1) / 2
    assert found == pytest.approx((beside * k + apart * k**2) / 2 / kept, abs=0.015)


def test_negative_sampling_learns_the_probability_of_words_near_words():
    """The optimum of eq. 4, measured as `apply` normalises it, is the true conditional one."""
    joint = np.array([[8, 1, 1], [2, 6, 2], [1, 3, 9]], float)
    pairs = np.repeat([(i, j) for i in range(3) for j in range(3)], joint.astype(int).ravel(), 0)
    model = jitted(
        build_model(SkipGramConfig(vocab_size=3, d_embedding=3, negatives=4), jnp.float32)
    )
    batch = {
        "inputs": jnp.asarray(pairs[:, 0]),
        "targets": jnp.asarray(pairs[:, 1]),
        "weights": jnp.ones(len(pairs)),
    }
    variables = dict(unboxed(model.init(jax.random.key(0), batch)))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 1500))
    opt_state = optimizer.init(variables["params"])

    @jax.jit
    def step(variables, opt_state, key):
        def mean(params):
            losses, stats = model.loss({**variables, "params": params}, batch, train=True, key=key)
            return losses.nats.mean(), stats

        gradients, stats = jax.grad(mean, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **stats}, opt_state

    for index in range(1500):
        variables, opt_state = step(variables, opt_state, jax.random.key(index))
    logits, _ = model.apply(variables, {"inputs": jnp.arange(3)}, train=False)
    expected = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=0.05)


def test_a_corpus_without_pairs_is_refused():
    with pytest.raises(UserError, match="two words"):
        training_pairs(
            tokenize(WORDS, ["cat", "dog"]),
            vocab_size=WORDS.vocab_size,
            window=2,
            subsampling=0,
            batch_size=4,
            seed=0,
        )
