import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.interface import cross_entropy
from lm_jax.models.recurrent.attention import ATTENTIONS
from lm_jax.models.recurrent.layer import CELLS
from lm_jax.models.recurrent.seq2seq import (
    RecurrentSeq2SeqConfig,
    attention_weights,
    recurrent_seq2seq,
)
from lm_jax.parallel import sharding
from lm_jax.training.gradients import make_gradients
from lm_jax.training.state import init_state
from lm_jax.training.train_step import jit_train_steps, make_train_step
from tests.conftest import slow_but
from tests.models.jitted import jitted

VOCAB_SIZE = 23
# What reads, and what is compared: every cell, every attention, every direction.
KINDS = {
    "rnn, no attention": {"cell": "rnn", "attention": "none", "reverse_source": True},
    "lstm, no attention": {"cell": "lstm", "attention": "none", "num_layers": 2},
    "gru, dot, one way": {"cell": "gru", "attention": "dot", "num_layers": 2},
    "lstm, dot, both ways": {"attention": "dot", "bidirectional": True, "num_layers": 2},
    "gru, additive, both ways": {"cell": "gru", "attention": "additive", "bidirectional": True},
    "lstm, additive, tied": {"attention": "additive", "tie_embeddings": True, "layer_norm": True},
    "lstm, dot, narrow": {"attention": "dot", "bidirectional": True, "d_embedding": 3},
}
QUICK_KINDS = ("rnn, no attention", "lstm, dot, both ways", "gru, additive, both ways")


def tiny(**fields) -> RecurrentSeq2SeqConfig:
    shape = {"vocab_size": VOCAB_SIZE, "d_hidden": 6, "d_attention": 5, "bidirectional": False}
    return RecurrentSeq2SeqConfig(**shape | fields)


def built(config, batch, scale=0.5):
    """The model, and variables with every leaf random, so that no term hides behind a zero."""
    model = jitted(recurrent_seq2seq(config))
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    rng = np.random.default_rng(1)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape, scale=scale), x.dtype)  # noqa: E731
    return model, jax.tree.map(draw, shapes)


# (tokens of the source, tokens of the target) of the pairs in each row.
ROWS = (((4, 3), (1, 5), (3, 1)), ((5, 9),))


def packed(rows=ROWS, source_length=11, context_length=10, vocab_size=VOCAB_SIZE):
    """Pairs of random tokens that share rows, padded at the end."""
    rng = np.random.default_rng(0)
    shape = {"source": source_length, "inputs": context_length}
    batch = {name: rng.integers(1, vocab_size, (len(rows), n)) for name, n in shape.items()}
    batch["targets"] = rng.integers(1, vocab_size, (len(rows), context_length))
    for which, (name, width) in enumerate(
        (("source_segments", source_length), ("segments", context_length))
    ):
        batch[name] = np.zeros((len(rows), width), np.int64)
        for row, pairs in enumerate(rows):
            ends = np.cumsum([0, *(pair[which] for pair in pairs)])
            for n, (first, last) in enumerate(itertools.pairwise(ends), 1):
                batch[name][row, first:last] = n
    batch = {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()}
    return batch | {"weights": (batch["segments"] > 0).astype(jnp.float32)}


def one_a_row(batch):
    """The pairs of a packed batch, each in a row of its own."""
    batch = {name: np.asarray(value) for name, value in batch.items()}
    rows = [(row, n + 1) for row, last in enumerate(batch["segments"].max(1)) for n in range(last)]
    apart = {
        name: np.zeros((len(rows), value.shape[1]), value.dtype) for name, value in batch.items()
    }
    for index, (row, n) in enumerate(rows):
        for name in apart:
            segments = batch["source_segments" if name.startswith("source") else "segments"][row]
            values = batch[name][row][segments == n]
            apart[name][index, : len(values)] = 1 if name.endswith("segments") else values
    return {name: jnp.asarray(value) for name, value in apart.items()}


@pytest.mark.parametrize("kind", slow_but(KINDS, "lstm, dot, both ways"))
def test_pairs_that_share_a_row_equal_pairs_alone(kind):
    """Their logits, and the gradient of the sum of their losses."""
    batch = packed()
    model, variables = built(tiny(**KINDS[kind]), batch)

    def total(params, batch):
        logits, _ = model.apply({"params": params}, batch, train=True)
        return jnp.sum(cross_entropy(logits, batch["targets"]).nats * batch["weights"]), logits

    value_and_grad = jax.jit(jax.value_and_grad(total, has_aux=True))
    apart = one_a_row(batch)
    (loss, logits), gradient = value_and_grad(variables["params"], batch)
    (expected, expected_logits), expected_gradient = value_and_grad(variables["params"], apart)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.isfinite(logits).all()
    together, alone = batch["segments"] > 0, apart["segments"] > 0
    np.testing.assert_allclose(logits[together], expected_logits[alone], atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, expected_gradient
    )
    assert all(jnp.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", slow_but(KINDS, *QUICK_KINDS))
def test_steps_equal_apply(kind):
    rows = [[(length, 8)] for length in (5, 2, 7)]
    batch = packed(rows, source_length=7, context_length=8)
    model, variables = built(tiny(**KINDS[kind]), batch)
    logits_btv, _ = model.apply(variables, batch, train=False)
    source = {name: batch[name] for name in ("source", "source_segments")}
    carry = start = model.start(variables, 3, 8, source=source)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(carry)} == {3}
    for t in range(8):
        logits_bv, carry = model.step(variables, carry, batch["inputs"][:, t])
        np.testing.assert_allclose(logits_bv, logits_btv[:, t], atol=1e-5)
    logits_bv, after = model.read(variables, start, batch["inputs"])
    np.testing.assert_allclose(logits_bv, logits_btv[:, -1], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after, carry)


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_attention_follows_its_paper(attention):
    """Bahdanau et al. 2015, section A.1.2, and Luong et al. 2015, equations 5, 7 and 8."""
    batch = packed()
    config = tiny(attention=attention, bidirectional=True)
    model, variables = built(config, batch)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    weights_bts = attention_weights(config, variables, batch)
    logits, _ = model.apply(variables, batch, train=False)
    source = {"source": batch["source"][1:, :5]}
    carry = model.start(variables, 1, 9, source=source)
    memory_sm = np.asarray(carry.memory.states_bsm[0], np.float64)
    for t in range(9):
        _, carry = model.step(variables, carry, batch["inputs"][1:, t])
        h_d = np.asarray(carry.states[-1][0][0], np.float64)
        a = {name: leaf["kernel"] for name, leaf in p["attention"].items() if name != "score"}
        if attention == "dot":
            scores_s = memory_sm @ a["memory"] @ h_d
        else:
            pairs_sk = np.tanh(h_d @ a["query"] + memory_sm @ a["memory"])
            scores_s = pairs_sk @ p["attention"]["score"]
        weights_s = np.exp(scores_s) / np.exp(scores_s).sum()
        np.testing.assert_allclose(weights_bts[1, t, :5], weights_s, atol=1e-5)
        attentional_d = np.tanh(np.concatenate([weights_s @ memory_sm, h_d]) @ a["combine"])
        expected = p["output"] @ attentional_d + p["output_bias"]
        np.testing.assert_allclose(logits[1, t], expected, atol=1e-5)


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_attention_is_all_on_the_source_of_the_same_pair(attention):
    batch = packed()
    config = tiny(attention=attention)
    _, variables = built(config, batch)
    weights_bts = np.asarray(attention_weights(config, variables, batch))
    is_target_bt = np.asarray(batch["segments"] > 0)
    np.testing.assert_allclose(weights_bts.sum(-1), is_target_bt, atol=1e-6)
    same_bts = batch["segments"][:, :, None] == batch["source_segments"][:, None]
    assert not weights_bts[~(same_bts & is_target_bt[:, :, None])].any()
    with pytest.raises(UserError, match="model.attention is none"):
        attention_weights(tiny(attention="none"), variables, batch)


def test_a_target_without_a_source_starts_from_zeros():
    batch = packed()
    none = batch | {"source_segments": jnp.zeros_like(batch["source_segments"])}
    model, variables = built(tiny(attention="additive"), batch)
    changed = none | {"source": none["source"] % 5 + 1}
    first, second = (model.apply(variables, one, train=False)[0] for one in (none, changed))
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "fields",
    slow_but(
        UNIFORM := [
            {"attention": "none", "cell": "rnn", "tie_embeddings": True},
            {"attention": "none", "cell": "lstm", "num_layers": 2},
            {"attention": "dot", "bidirectional": True, "tie_embeddings": True},
            {"attention": "additive", "cell": "gru", "bidirectional": True, "tie_embeddings": True},
        ],
        UNIFORM[0],
        UNIFORM[-1],
    ),
)
def test_a_new_model_guesses_uniformly(fields):
    config = tiny(vocab_size=4064, d_hidden=128, **fields)
    batch = packed([[(7, 4), (9, 12)]] * 4, 16, 16, vocab_size=4064)
    model = jitted(recurrent_seq2seq(config))
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    losses, _ = model.loss(variables, batch, train=False)
    assert float(losses.nats.mean()) == pytest.approx(np.log(4064), rel=0.02)


def test_one_dropout_mask_serves_all_steps_of_a_row():
    config = tiny(cell="rnn", attention="none", dropout_rate=0.5, d_embedding=20)
    batch = packed([[(3, 8)]] * 4, 3, 8) | {"inputs": jnp.full((4, 8), 3)}
    model, variables = built(config, batch)
    for name in ("encoder_0", "decoder_0"):
        kernel = variables["params"][name]["recurrent"]
        kernel["kernel"] = jnp.zeros_like(kernel["kernel"])
    # Without recurrence and with one token throughout, only a mask could tell steps apart.
    logits, _ = model.apply(variables, batch, train=True, key=jax.random.key(0))
    np.testing.assert_allclose(logits, jnp.broadcast_to(logits[:, :1], logits.shape), atol=1e-6)
    assert jnp.abs(logits[0] - logits[1]).max() > 1e-2


def losses_of(config, batches, optimizer):
    """The losses of training on a stack of batches [steps, batch, ...]."""
    model, schedule = recurrent_seq2seq(config), optax.constant_schedule(1.0)
    example = {name: value[0] for name, value in batches.items()}
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    state = init_state(model, optimizer, example, mesh, seed=0)
    steps = jit_train_steps(make_train_step(make_gradients(model.loss), optimizer, schedule))
    with sharding.on_mesh(mesh):
        _, metrics = steps(state, batches)
    return metrics["loss"]


@pytest.mark.slow
def test_attention_learns_to_reverse():
    """Two sequences of 6 symbols a row; symbol 0 ends a source and begins a target."""
    rng = np.random.default_rng(0)
    symbols = rng.integers(1, 11, (150, 32, 2, 6))
    end = np.zeros((150, 32, 2, 1), int)
    backwards = symbols[..., ::-1]
    segments = np.broadcast_to(np.repeat([1, 2], 7), (150, 32, 14))
    batches = {
        "source": np.concatenate([symbols, end], -1).reshape(150, 32, 14),
        "inputs": np.concatenate([end, backwards], -1).reshape(150, 32, 14),
        "targets": np.concatenate([backwards, end], -1).reshape(150, 32, 14),
        "source_segments": segments,
        "segments": segments,
    }
    batches = {name: value.astype(np.int32) for name, value in batches.items()}
    batches["weights"] = np.ones((150, 32, 14), np.float32)
    config = RecurrentSeq2SeqConfig(vocab_size=11, d_hidden=32)
    losses = losses_of(config, batches, optax.adam(1e-2))
    assert losses[0] > 2.2 and losses[-5:].mean() < 0.1


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_names_its_axes(cell, attention):
    config = tiny(cell=cell, attention=attention, bidirectional=True, layer_norm=True)
    boxed = jax.eval_shape(recurrent_seq2seq(config).init, jax.random.key(0), packed())
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    for leaf in jax.tree.leaves(boxed["params"], is_leaf=is_box):
        assert is_box(leaf) and len(leaf.names) == leaf.value.ndim
        assert set(leaf.names) <= {name for name, _ in sharding.RULES}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "mgu"}, "model.cell is 'mgu'; expected one of rnn, lstm, gru"),
        ({"attention": "local"}, "model.attention is 'local'; expected one of none, additive, dot"),
        ({"source_length": 0}, "model.source_length is 0; expected at least 1"),
        ({"d_attention": 0}, "model.d_attention is 0; expected at least 1"),
        ({"d_embedding": -1}, "model.d_embedding is -1; expected at least 0"),
        ({"bidirectional": True, "reverse_source": True}, "set model.bidirectional to False"),
        ({"tie_embeddings": True, "d_embedding": 5}, "d_embedding 5 equal to model.d_hidden 6"),
        ({"vocab_size": 0}, "vocab_size is 0"),
    ],
)
def test_impossible_shapes_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        build_model(tiny(**fields), jnp.float32)


def test_batches_that_lack_a_source_are_refused():
    batch = packed()
    model, variables = built(tiny(), batch)
    with pytest.raises(UserError, match="reads a batch with `source`; given inputs"):
        model.apply(variables, {"inputs": batch["inputs"]}, train=False)
    with pytest.raises(UserError, match="2 sources for 3 targets"):
        model.start(variables, 3, 5, source=batch)
