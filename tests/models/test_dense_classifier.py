import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.dense_classifier import DenseClassifierConfig, dense_classifier
from lm_jax.training.gradients import make_gradients
from lm_jax.training.state import TrainState, variables_of
from lm_jax.training.train_step import make_train_step
from tests.models.jitted import jitted


def trained(config, inputs, targets, steps, learning_rate):
    """The model, its variables after full-batch gradient descent, and the last loss."""
    model = jitted(dense_classifier(config))
    batch = {
        "inputs": jnp.asarray(inputs, jnp.float32),
        "targets": jnp.asarray(targets, jnp.int32),
        "weights": jnp.ones(len(targets)),
    }
    params = nn.unbox(model.init(jax.random.key(0), batch))["params"]
    optimizer = optax.sgd(learning_rate)
    state = TrainState(jnp.int32(0), jax.random.key(0), params, {}, optimizer.init(params))
    step = make_train_step(make_gradients(model.loss), optimizer, lambda _: learning_rate)
    state, metrics = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: step(s, batch), state, None, length=steps)
    )(state)
    return model, variables_of(state), batch, float(metrics["loss"][-1])


def test_a_single_neuron_learns_and_but_not_xor():
    inputs = [[0, 0], [0, 1], [1, 0], [1, 1]]
    config = DenseClassifierConfig(num_classes=2, num_layers=1)
    model, variables, batch, _ = trained(config, inputs, [0, 0, 0, 1], 500, 2.0)
    losses, _ = model.loss(variables, batch, train=False)
    assert losses.correct.tolist() == [1, 1, 1, 1]
    model, variables, batch, loss = trained(config, inputs, [0, 1, 1, 0], 500, 2.0)
    assert loss == pytest.approx(np.log(2), abs=1e-3)  # no line parts XOR


def test_hidden_layers_learn_xor():
    config = DenseClassifierConfig(num_classes=2, num_layers=2, d_hidden=16, activation="tanh")
    inputs = [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert trained(config, inputs, [0, 1, 1, 0], 500, 0.5)[-1] < 0.05


def test_softmax_regression_can_start_at_zero():
    config = DenseClassifierConfig(10, 28, 28, 1, num_layers=1, zero_init=True)
    model = jitted(dense_classifier(config))
    batch = {"inputs": jnp.ones((2, 28, 28, 1)), "targets": jnp.array([3, 4])}
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    assert sum(x.size for x in jax.tree.leaves(variables)) == 7850
    losses, _ = model.loss(variables, batch, train=True)
    np.testing.assert_allclose(losses.nats, np.log(10), rtol=1e-6)


def test_dropout_acts_in_training_only():
    model = jitted(dense_classifier(DenseClassifierConfig(2, dropout_rate=0.5)))
    batch = {"inputs": jnp.ones((2, 8))}
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    first, second = (
        model.apply(variables, batch, train=True, key=jax.random.key(i))[0] for i in range(2)
    )
    assert (first != second).any()
    model.apply(variables, batch, train=False)  # needs no key


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 0}, "model.num_classes is 0: give the number of classes"),
        ({"activation": "swish"}, "model.activation is 'swish'; expected one of relu, tanh"),
        ({"num_layers": 0}, "model.num_layers is 0; expected 1 <= num_layers <= 10000"),
        ({"image_height": -1}, "model.image_height is -1; expected at least 0"),
        ({"dropout_rate": 1.0}, "model.dropout_rate is 1.0; expected 0 <= dropout_rate < 1"),
    ],
)
def test_what_cannot_be_built_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        build_model(DenseClassifierConfig(**{"num_classes": 2} | fields), jnp.float32)


def test_images_of_another_size_are_refused():
    model = dense_classifier(DenseClassifierConfig(10, 28, 28, 1))
    with pytest.raises(UserError, match="inputs of 32 x 32 x 3 for a model of 28 x 28 x 1"):
        model.init(jax.random.key(0), {"inputs": jnp.zeros((1, 32, 32, 3))})
