"""Recurrent models beside PyTorch's layers with the same weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models.recurrent.layer import CELLS
from tests.models.recurrent import test_classifier as classifiers
from tests.models.recurrent import test_language_model as language_models
from tests.models.recurrent import test_seq2seq as seq2seq
from tests.parity.recorded import reference


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_logits_final_states_and_gradients_of_a_language_model(cell, num_layers):
    # 48 tokens a batch: with a smaller vocabulary the embedding table is projected, not its rows.
    vocab_size = {1: 64, 2: 31}[num_layers]
    config = language_models.tiny(cell=cell, num_layers=num_layers, d_embedding=7, carry_state=True)
    config = dataclasses.replace(config, vocab_size=vocab_size)
    tokens = language_models.tokens
    batch = {"inputs": tokens(3, 16), "targets": tokens(3, 16, seed=2)}
    model, variables = language_models.built(config, batch)
    params = variables["params"]

    def compute(inputs):
        from tests.parity import pytorch_recurrent

        return pytorch_recurrent.language_model(cell, num_layers, inputs)

    theirs = reference("recurrent", f"{cell} of {num_layers}", compute, (params, batch))
    logits, stats = model.apply(variables, batch, train=True)
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-5)
    for index, carry in enumerate(stats["carry"]):
        for state, name in zip(carry, ("h", "c")[: len(carry)], strict=True):
            np.testing.assert_allclose(state, theirs[name][index], atol=1e-5)

    def loss(params):
        return model.loss({**variables, "params": params}, batch, train=True)[0].nats.mean()

    grads = jax.jit(jax.grad(loss))(params)
    for name in ("embedding", "output", "output_bias"):
        np.testing.assert_allclose(grads[name], theirs[f"grad {name}"], atol=1e-5)
    for index in range(num_layers):
        ours = grads[f"layer_{index}"]
        assert_equal_gradients(ours, theirs, f"l{index}")
        if cell == "gru":
            second = theirs[f"grad bias_hh_l{index}"][2 * config.d_hidden :]
            np.testing.assert_allclose(ours["recurrent_bias"], second, atol=1e-5)


def assert_equal_gradients(ours, theirs, suffix):
    """Compares the gradients of one layer with PyTorch's, by its names."""
    for name, leaf in (
        ("weight_ih", ours["input"]["kernel"].T),
        ("weight_hh", ours["recurrent"]["kernel"].T),
        ("bias_ih", ours["bias"]),
    ):
        np.testing.assert_allclose(leaf, theirs[f"grad {name}_{suffix}"], atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"cell": "lstm", "num_layers": 2},
        {"cell": "gru", "pooling": "max"},
        {"cell": "rnn", "pooling": "mean", "num_layers": 2},
        {"cell": "lstm", "bidirectional": False, "num_layers": 2},
        {"cell": "gru", "bidirectional": False, "pooling": "mean"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_logits_and_gradients_of_a_classifier_on_packed_sequences(fields):
    config = classifiers.tiny(**fields)
    model, variables = classifiers.built(config)
    params, batch = variables["params"], classifiers.texts()

    def compute(inputs):
        from tests.parity import pytorch_recurrent

        return pytorch_recurrent.classifier(config, inputs)

    case = "classifier " + "-".join(map(str, fields.values()))
    inputs = (params, batch, np.array(classifiers.LENGTHS))
    theirs = reference("recurrent", case, compute, inputs)
    logits, stats = model.apply(variables, batch, train=False)
    assert stats == {} and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-5)

    def loss(params):
        return model.loss({"params": params}, batch, train=False)[0].nats.mean()

    grads = jax.jit(jax.grad(loss))(params)
    for index in range(config.num_layers):
        assert_equal_gradients(grads[f"forward_{index}"], theirs, f"l{index}")
        if config.bidirectional:
            assert_equal_gradients(grads[f"backward_{index}"], theirs, f"l{index}_reverse")


@pytest.mark.parametrize("reverse_source", [False, True])
def test_the_lstm_without_attention_equals_two_of_pytorch(reverse_source):
    """Sutskever et al. 2014: the final states of one start the other."""
    config = seq2seq.tiny(
        attention="none", num_layers=2, d_embedding=5, reverse_source=reverse_source
    )
    batch = seq2seq.packed([[(9, 8)]] * 3, source_length=9, context_length=8)
    model, variables = seq2seq.built(config, batch)

    def compute(inputs):
        from tests.parity import pytorch_recurrent

        return pytorch_recurrent.seq2seq(config, inputs)

    case = f"two lstms, reversed {reverse_source}"
    theirs = reference("recurrent", case, compute, (variables["params"], batch))
    logits, _ = model.apply(variables, batch, train=False)
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-5)


def test_a_bidirectional_encoder_equals_pytorch():
    """The states of both directions, and what a learned map makes of the last ones."""
    config = seq2seq.tiny(attention="none", num_layers=2, bidirectional=True)
    batch = seq2seq.packed([[(9, 1)]] * 3, source_length=9, context_length=1)
    model, variables = seq2seq.built(config, batch)
    params = variables["params"]

    def compute(inputs):
        from tests.parity import pytorch_recurrent

        return pytorch_recurrent.bidirectional_states(inputs)

    theirs = reference("recurrent", "bidirectional states", compute, (params, batch))
    carry = model.start(variables, 3, 1, source=batch)
    for i, states in enumerate(carry.states):
        for ours, name, kind in zip(states, ("h", "c"), (0, 1), strict=True):
            both = np.concatenate([theirs[name][2 * i], theirs[name][2 * i + 1]], axis=-1)
            expected = both @ params[f"bridge_{i}_{kind}"]["kernel"]
            expected = expected if kind else np.tanh(expected)
            np.testing.assert_allclose(ours, expected, atol=1e-5)
