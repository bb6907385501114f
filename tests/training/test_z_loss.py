"""The z-loss: what is trained and reported, and the gradient, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.errors import UserError
from lm_jax.models.interface import Losses, loss_from_apply
from lm_jax.training.gradients import make_gradients
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import make_train_step

LOGITS = np.random.default_rng(0).normal(size=(2, 3, 5))
WEIGHTS = np.array([[1.0, 1, 0], [1, 0.5, 1]])
TARGETS = np.array([[0, 4, 1], [2, 2, 3]])


def one_step(loss, parts=1, **options):
    """The gradient of the logits, which are the parameters, and what the step reports."""
    optimizer, gradients = optax.sgd(1.0), make_gradients(loss, parts, **options)
    step = jax.jit(make_train_step(gradients, optimizer, lambda _: 1.0))
    params = jnp.asarray(LOGITS, jnp.float32)
    state = TrainState(jnp.int32(0), jax.random.key(0), params, {}, optimizer.init(params))
    batch = {
        "rows": jnp.arange(2),
        "targets": jnp.asarray(TARGETS),
        "weights": jnp.asarray(WEIGHTS, jnp.float32),
    }
    after, metrics = step(state, batch)
    return np.asarray(params - after.params), metrics


def apply(variables, batch, *, train, key):
    return variables["params"][batch["rows"]], {}


@pytest.mark.parametrize("parts", [1, 2])
def test_the_squared_log_normalizer_is_trained_beside_the_cross_entropy(parts):
    gradient, metrics = one_step(loss_from_apply(apply), parts, z_loss=0.3)
    normalizers = np.log(np.exp(LOGITS).sum(-1))
    chances = np.exp(LOGITS - normalizers[..., None])
    of_nats = chances - np.eye(5)[TARGETS]
    of_squares = 2 * normalizers[..., None] * chances
    expected = WEIGHTS[..., None] / WEIGHTS.sum() * (of_nats + 0.3 * of_squares)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    nats = normalizers - np.take_along_axis(LOGITS, TARGETS[..., None], -1)[..., 0]
    mean = (nats * WEIGHTS).sum() / WEIGHTS.sum()
    squares = (normalizers**2 * WEIGHTS).sum() / WEIGHTS.sum()
    assert float(metrics["loss"]) == pytest.approx(mean, rel=1e-6)
    assert float(metrics["z_loss"]) == pytest.approx(squares, rel=1e-6)
    assert float(metrics["total_loss"]) == pytest.approx(mean + 0.3 * squares, rel=1e-6)


def test_a_model_without_logits_has_none():
    def loss(variables, batch, *, train, key):
        zeros = variables["params"][..., 0]
        return Losses(zeros, zeros), {}

    with pytest.raises(UserError, match=r"z_loss needs `Losses\.log_normalizer` of the model"):
        one_step(loss, z_loss=1e-4)
    assert "z_loss" not in one_step(loss)[1]
