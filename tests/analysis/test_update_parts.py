"""The parts of an update: norms that add up to its own, rows that break it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.analysis.update_parts import UpdateParts
from lm_jax.build import build_experiment
from lm_jax.parallel import sharding
from lm_jax.training.state import init_state
from tests.experiments import tiny

ROWS, TIME, VOCABULARY = 8, 16, 31


def subject(**fields):
    """A built experiment of two layers, its first state, and a batch of random tokens."""
    config = tiny(model__num_layers=2, model__context_length=TIME, **fields)
    built = build_experiment(config, {"vocab_size": VOCABULARY}, jax.devices()[:1])
    state = init_state(built.model, built.optimizer, built.example, built.mesh, 0)
    rng = np.random.default_rng(0)
    tokens = rng.integers(VOCABULARY, size=(ROWS, TIME + 1), dtype=np.int32)
    weights = np.ones((ROWS, TIME), np.float32)
    weights[3, 5:], weights[6] = 0, 0
    return built, state, {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def placed(built, batch):
    return sharding.place_batch(batch, sharding.batch_sharding(built.mesh))


@pytest.mark.parametrize("fields", [{}, {"compute_dtype": "float16"}])
def test_norms_of_parameters_add_up_to_the_norm_of_the_step(fields):
    built, state, batch = subject(**fields)
    with sharding.on_mesh(built.mesh):
        found = UpdateParts(built, state, batch).by_parameter()
        _, metrics = jax.jit(built.train_step)(state, placed(built, batch))
    assert {"embedding", "layers/attention/query/kernel[1]"} < found.keys()
    total = np.sqrt(sum(norm**2 for norm in found.values()))
    assert np.isfinite(total)
    assert total == pytest.approx(float(metrics["gradient_norm"]), rel=1e-5)


def test_the_loss_and_the_gradient_of_a_row_are_those_of_the_row_alone():
    built, state, batch = subject()

    def mean_nats(params):
        one = {name: jnp.asarray(value[3:4]) for name, value in batch.items()}
        losses, _ = built.loss({"params": params}, one, train=True, key=jax.random.key(0))
        return jnp.sum(losses.nats * one["weights"]) / jnp.sum(one["weights"])

    with sharding.on_mesh(built.mesh):
        parts = UpdateParts(built, state, batch)
        found, all_measured = parts.by_row(2), parts.by_row(ROWS)
        nats, grads = jax.jit(jax.value_and_grad(mean_nats))(state.params)
    assert sorted(part.row for part in found) == [0, 1, 2, 3, 4, 5, 7]  # row 6 has no target
    assert [part.nats for part in found] == sorted((part.nats for part in found), reverse=True)
    assert [part.gradient_norm is None for part in found] == [False] * 2 + [True] * 5
    third = next(part for part in all_measured if part.row == 3)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
    assert third.nats == pytest.approx(float(nats), rel=1e-5)
    assert third.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert third.targets == 5


@pytest.mark.parametrize("guilty", [[5], [0, 4, 7]])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_rows_that_break_a_gradient_come_first(guilty, bad):
    built, state, batch = subject()
    batch["weights"][guilty, 2] = bad
    with sharding.on_mesh(built.mesh):
        found = UpdateParts(built, state, batch).by_row(4)
    assert sorted(part.row for part in found[: len(guilty)]) == guilty
    assert not np.isfinite([part.gradient_norm for part in found[: len(guilty)]]).any()
    assert np.isfinite([part.gradient_norm for part in found[len(guilty) : 4]]).all()
