"""The MLP and the convolutional language model: what they read, and that decoding agrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.mlp import MLPConfig
from tests.models.jitted import jitted

CONFIGS = {
    "mlp": MLPConfig(vocab_size=11, window=3, d_embedding=6, d_hidden=16),
    "mlp, direct, two layers": MLPConfig(
        vocab_size=11, window=4, d_embedding=6, d_hidden=16, num_layers=2, direct=True
    ),
    "cnn": CausalCNNConfig(vocab_size=11, num_layers=3, d_model=8, dilation_cycle=2),
    "cnn, width 3": CausalCNNConfig(vocab_size=11, num_layers=2, d_model=8, kernel_width=3),
}
FIELDS = {"mlp": 3, "mlp, direct, two layers": 4, "cnn": 1 + 1 + 2 + 1, "cnn, width 3": 1 + 2 + 4}
MODELS = {name: jitted(build_model(config, jnp.float32)) for name, config in CONFIGS.items()}
TOKENS = jax.random.randint(jax.random.key(0), (2, 24), 0, 11)


@pytest.fixture(params=list(CONFIGS))
def case(request):
    model = MODELS[request.param]
    variables = jax.tree.map(
        lambda x: x.unbox() if hasattr(x, "unbox") else x,
        model.init(jax.random.key(1), {"inputs": TOKENS}),
        is_leaf=lambda x: hasattr(x, "unbox"),
    )
    # Larger than initial, so that differences show.
    return request.param, model, jax.tree.map(lambda x: 3 * x, variables)


def logits_of(model, variables, tokens, **batch):
    return model.apply(variables, {"inputs": tokens, **batch}, train=False)[0]


def test_step_repeated_equals_apply(case):
    _, model, variables = case
    whole = logits_of(model, variables, TOKENS)
    carry = model.start(variables, 2, 24)
    for time in range(TOKENS.shape[1]):
        logits, carry = model.step(variables, carry, TOKENS[:, time])
        np.testing.assert_allclose(logits, whole[:, time], atol=1e-4)


def test_a_prediction_depends_on_the_receptive_field_and_on_nothing_else(case):
    name, model, variables = case

    def last(embedding_shift):
        tokens = TOKENS.at[0, embedding_shift].set((TOKENS[0, embedding_shift] + 1) % 11)
        return logits_of(model, variables, tokens)[0, 20]

    reference = logits_of(model, variables, TOKENS)[0, 20]
    changes = [bool(np.any(np.abs(last(t) - reference) > 1e-7)) for t in range(24)]
    first = 20 - FIELDS[name] + 1
    assert changes == [first <= t <= 20 for t in range(24)]


def test_nothing_leaks_from_one_document_into_the_next(case):
    _, model, variables = case
    positions = jnp.concatenate([jnp.arange(9), jnp.arange(15)])[None].repeat(2, 0)
    segments = (jnp.arange(24) >= 9)[None].repeat(2, 0) + 1
    packed = logits_of(model, variables, TOKENS, positions=positions, segments=segments)
    for part in (slice(0, 9), slice(9, 24)):
        alone = logits_of(model, variables, TOKENS[:, part])
        np.testing.assert_allclose(packed[:, part], alone, atol=1e-5)


def test_a_new_model_guesses_uniformly():
    for config in (MLPConfig(vocab_size=300), CausalCNNConfig(vocab_size=300)):
        model = jitted(build_model(config, jnp.float32))
        tokens = jax.random.randint(jax.random.key(0), (4, 33), 0, 300)
        batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        variables = model.init(jax.random.key(1), batch)
        losses, _ = model.loss(variables, batch, train=False)
        assert float(losses.nats.mean()) == pytest.approx(np.log(300), rel=0.02)


def test_the_neural_bigram_learns_the_counts_of_pairs():
    """One embedding, no hidden layer: its optimum is the table of relative frequencies."""
    config = MLPConfig(vocab_size=3, window=1, d_embedding=3, num_layers=0)
    model = jitted(build_model(config, jnp.float32))
    pairs = np.array([[0, 1]] * 6 + [[0, 2]] * 2 + [[1, 0]] * 5 + [[1, 1]] * 5 + [[2, 0]] * 9)
    batch = {"inputs": jnp.asarray(pairs[:, :1]), "targets": jnp.asarray(pairs[:, 1:])}
    variables = model.init(jax.random.key(0), batch)

    @jax.jit
    def descend(variables):
        gradients = jax.grad(lambda v: model.loss(v, batch, train=True)[0].nats.mean())(variables)
        return jax.tree.map(lambda x, g: x - 1.0 * g, variables, gradients)

    for _ in range(600):
        variables = descend(variables)
    optimum = -(6 * np.log(6 / 8) + 2 * np.log(2 / 8) + 10 * np.log(1 / 2)) / len(pairs)
    reached = float(model.loss(variables, batch, train=False)[0].nats.mean())
    assert optimum <= reached < optimum + 0.01


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MLPConfig(vocab_size=5, window=0), "model.window is 0"),
        (MLPConfig(vocab_size=5, dropout_rate=1.0), "dropout_rate is 1.0"),
        (CausalCNNConfig(vocab_size=5, kernel_width=0), "model.kernel_width is 0"),
        (CausalCNNConfig(), "vocab_size is 0"),
    ],
)
def test_impossible_shapes_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        build_model(config, jnp.float32)
