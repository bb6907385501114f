"""Updates that are skipped: bit for bit nothing changes, and resuming counts on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.models.interface import Losses
from lm_jax.training.gradients import make_gradients
from lm_jax.training.loop import NonFiniteLoss, SkippedInARow
from lm_jax.training.skipping import is_skipped, remembering
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import make_train_step


def loss(variables, batch, *, train, key):
    """w x, the mean of which has the gradient x; statistics count the batches."""
    nats = variables["params"]["w"] * batch["inputs"]
    return Losses(nats, jnp.zeros_like(nats)), {"batch_stats": variables["batch_stats"] + 1}


def train_on(values, *, above=0.0, parts=1):
    """The states and metrics of steps on batches of two equal values."""
    optimizer = optax.adam(0.1)
    if above:
        optimizer = remembering(optimizer)
    gradients = make_gradients(loss, parts)
    step = jax.jit(make_train_step(gradients, optimizer, lambda _: 0.1, skip_above=above))
    params = {"w": jnp.float32(3.0)}
    stats = {"batch_stats": jnp.int32(0)}
    states = [TrainState(jnp.int32(0), jax.random.key(0), params, stats, optimizer.init(params))]
    skipped = []
    for value in values:
        batch = {"inputs": jnp.full((2, 1), value), "weights": jnp.ones((2, 1))}
        state, metrics = step(states[-1], batch)
        states.append(state)
        skipped.append(float(metrics["skipped"]))
    return states, skipped


def bits(state):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves((*state[2:],))]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_changes_nothing_but_the_step(bad, parts):
    states, skipped = train_on([1.0, bad, 1.0], parts=parts)
    assert skipped == [0, 1, 0]
    assert bits(states[2]) == bits(states[1]) and int(states[2].step) == 2
    without, _ = train_on([1.0, 1.0], parts=parts)
    assert bits(states[3]) == bits(without[2])


def test_what_is_far_above_its_median_is_skipped_once_enough_is_known():
    usual = [1.0 + 0.01 * n for n in range(20)]
    assert train_on([1.0, 50.0, 1.0], above=5)[1] == [0, 0, 0]
    states, skipped = train_on([*usual, 50.0, 4.0, np.nan, 1.0], above=5)
    assert skipped == [0] * 20 + [1, 0, 1, 0]
    assert bits(states[21]) == bits(states[20])
    assert np.isfinite(states[-1].opt_state.norms[-22:]).all()
    assert np.isnan(states[-1].opt_state.norms[:-22]).all()  # skipped ones are not remembered
    np.testing.assert_allclose(states[-1].opt_state.norms[-1], 1.0, rtol=1e-6)


def test_an_even_number_of_values_has_the_mean_of_the_middle_as_its_median():
    optimizer = remembering(optax.sgd(0.1))
    last = jnp.array([np.nan] * 108 + [2.0] * 10 + [4.0] * 9 + [40.0])
    state = optimizer.init({})._replace(losses=last, norms=last)
    for loss, norm, expected in ((8.9, 1, False), (9.1, 1, True), (1, 9.1, True)):
        assert bool(is_skipped(jnp.float32(loss), jnp.float32(norm), state, 3.0)) is expected


@pytest.mark.parametrize(("loss", "norm"), [(np.inf, 1), (np.nan, 1), (1, np.inf), (1, np.nan)])
def test_either_number_that_is_not_finite_suffices(loss, norm):
    assert bool(is_skipped(jnp.float32(loss), jnp.float32(norm), (), 0.0))


def test_only_skipped_updates_in_a_row_end_a_run():
    check = SkippedInARow(3).check
    metrics = {"loss": np.full(4, np.nan), "gradient_norm": np.ones(4)}
    check(4, metrics | {"skipped": np.array([1, 1, 0, 1])})
    with pytest.raises(NonFiniteLoss, match="the loss of step 6 is nan: the last 3 updates were"):
        check(8, metrics | {"skipped": np.array([1, 1, 0, 0])})


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_both_ways_to_choose_keep_the_same_bits(kind, monkeypatch):
    monkeypatch.setattr("lm_jax.training.train_step.target", lambda: kind)
    states, skipped = train_on([1.0, np.nan, 1.0])
    assert skipped == [0, 1, 0] and bits(states[2]) == bits(states[1]) != bits(states[3])
