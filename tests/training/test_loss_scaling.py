"""Loss scaling: gradients that float16 would lose, overflows that are skipped, the scale found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.models.interface import Losses
from lm_jax.training import loss_scaling
from lm_jax.training.gradients import make_gradients
from lm_jax.training.loss_scaling import Scaled, adjusted, scaling
from lm_jax.training.skipping import remembering
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import make_train_step


def loss(variables, batch, *, train, key):
    """w x in float16, whose mean has the gradient x, of which float16 holds no less than 6e-8."""
    w, x = variables["params"]["w"].astype(jnp.float16), batch["inputs"].astype(jnp.float16)
    return Losses((w * x).astype(jnp.float32), jnp.zeros(x.shape)), {}


def train_on(values, *, scaled=True, above=0.0, parts=1, rows=2**14):
    """The states and metrics of steps on batches of equal values, by SGD at rate 1."""
    optimizer = remembering(optax.sgd(1.0)) if above else optax.sgd(1.0)
    optimizer = scaling(optimizer) if scaled else optimizer
    gradients = make_gradients(loss, parts)
    step = jax.jit(make_train_step(gradients, optimizer, lambda _: 1.0, skip_above=above))
    params = {"w": jnp.float32(1.0)}
    states = [TrainState(jnp.int32(0), jax.random.key(0), params, {}, optimizer.init(params))]
    metrics = []
    for value in values:
        batch = {"inputs": jnp.full((rows, 1), value), "weights": jnp.ones((rows, 1))}
        state, found = step(states[-1], batch)
        states.append(state)
        metrics.append({name: float(x) for name, x in found.items()})
    return states, metrics


@pytest.mark.parametrize("parts", [1, 2])
def test_a_gradient_that_float16_loses_is_kept(parts):
    """Each of 2^14 rows adds 2^-10 / 2^14 to the gradient, the smallest float16 is 2^-24."""
    value = 2.0**-10 * 0.75
    lost, _ = train_on([value], scaled=False, parts=parts)
    kept, metrics = train_on([value], parts=parts)
    assert metrics[0]["gradient_norm"] == pytest.approx(value, rel=1e-3)
    assert float(kept[1].params["w"]) == pytest.approx(1 - value, rel=1e-6)
    assert abs(float(lost[1].params["w"]) - (1 - value)) > 0.2 * value


@pytest.mark.parametrize("above", [0.0, 5.0])
def test_an_overflow_is_skipped_and_halves_the_scale_until_it_fits(above):
    states, metrics = train_on([4.0] * 4, above=above, rows=2)
    assert [m["skipped"] for m in metrics] == [1, 1, 1, 0]  # 4 * 2^13 is the first below 2^16
    assert [m["loss_scale"] for m in metrics] == [2.0**16, 2.0**15, 2.0**14, 2.0**13]
    assert float(states[3].params["w"]) == 1.0 != float(states[4].params["w"])
    assert metrics[3]["gradient_norm"] == 4.0
    assert int(states[4].opt_state.finite) == 1


def test_the_scale_doubles_after_a_time_and_stays_within_its_bounds(monkeypatch):
    monkeypatch.setattr(loss_scaling, "_DOUBLED_AFTER", 3)
    state, scales = Scaled((), jnp.float32(8.0), jnp.int32(0)), []
    for is_finite in [True, True, False, True, True, True, True, False, False, False, False, False]:
        state = adjusted(state, jnp.bool_(is_finite))
        scales.append(float(state.scale))
    assert scales == [8, 8, 4, 4, 4, 8, 8, 4, 2, 1, 1, 1]
    most = Scaled((), jnp.float32(2.0**24), jnp.int32(2))
    assert float(adjusted(most, jnp.bool_(True)).scale) == 2.0**24


def test_an_outlier_does_not_lower_the_scale():
    usual = [0.01 + 1e-4 * n for n in range(20)]
    _, metrics = train_on([*usual, 0.5, 0.01], above=5.0, rows=2**7)
    assert [m["skipped"] for m in metrics] == [0] * 20 + [1, 0]
    assert len({m["loss_scale"] for m in metrics}) == 1


def test_without_scaling_nothing_of_it_is_reported():
    states, metrics = train_on([1.0], scaled=False)
    assert "loss_scale" not in metrics[0]
    np.testing.assert_array_equal(states[0].opt_state, optax.sgd(1.0).init({"w": 1.0}))
