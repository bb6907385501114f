import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.config.experiment import OptimizerConfig, ScheduleConfig
from lm_jax.models.parameters import Declared, declarations_of
from lm_jax.training.optimizers import OPTIMIZERS, is_decayed, make_optimizer
from lm_jax.training.schedules import SCHEDULES, learning_rate_schedule, steps_before_decay

PARAMS = {
    "embedding": jnp.ones((5, 4)),
    "layers": {"up": {"kernel": jnp.ones((2, 4, 8)), "bias": jnp.ones((2, 8))}},
    "norm": {"scale": jnp.ones(4)},
}


def rates(name, num_steps=110, **fields):
    """The rates of all steps of a run."""
    config = ScheduleConfig(
        **{"name": name, "peak_learning_rate": 2.0, "warmup_steps": 10} | fields
    )
    found = learning_rate_schedule(config, num_steps)(jnp.arange(num_steps))
    return np.broadcast_to(found, num_steps)  # a constant is one number


N = np.arange(1, 111)  # the n-th step has index n - 1
FALLEN = np.clip((N - 10) / 100, 0, 1)  # share of the steps after the warm-up
CLOSED_FORMS = {
    "constant": np.full(110, 2.0),
    "linear": 2 * (1 - 0.9 * FALLEN),
    "cosine": 2 * (0.1 + 0.9 * (1 + np.cos(np.pi * FALLEN)) / 2),
    "rsqrt": 2 * np.sqrt(10 / N),
    "wsd": 2 * (1 - 0.9 * np.clip((N - 88) / 22, 0, 1)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_follow_their_formulas_from_the_first_step_to_the_last(name):
    found = rates(name, final_fraction=0.1, decay_fraction=0.2)
    np.testing.assert_allclose(found[:10], 2 * N[:10] / 10, rtol=1e-6)
    np.testing.assert_allclose(found[10:], CLOSED_FORMS[name][10:], rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("warmup_steps", [0, 10])
def test_the_last_step_has_the_final_fraction(name, warmup_steps):
    found = rates(name, 100, final_fraction=0.1, decay_fraction=0.2, warmup_steps=warmup_steps)
    assert found[-1] == np.float32(0.1 * 2.0) < found[-2]
    assert rates(name, 100, final_fraction=0.0, warmup_steps=warmup_steps)[-1] == 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_step_of_the_warm_up_is_wasted_and_its_last_has_the_peak(name):
    found = rates(name, 1000)
    assert found[0] == pytest.approx(0.2)
    assert found[9] == np.float32(2.0) == found.max()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
def test_rates_before_a_decay_are_those_of_any_longer_run(name, fraction):
    config = ScheduleConfig(name=name, warmup_steps=10, decay_fraction=fraction)
    steps = jnp.arange(100)
    shared = steps_before_decay(config, 100)
    own = np.asarray(learning_rate_schedule(config, 100)(steps))
    longer = np.asarray(learning_rate_schedule(config, 1000)(steps))
    np.testing.assert_array_equal(own[:shared], longer[:shared])
    if name in ("linear", "cosine"):
        assert shared == 0
    elif name == "wsd" and fraction:
        assert shared == (80 if fraction == 0.2 else 10)
        assert own[shared] < longer[shared]  # the first step of the decay
    else:
        assert shared == 100


def test_without_a_warm_up_the_first_step_is_the_first_of_the_shape():
    first = {name: rates(name, 100, warmup_steps=0, final_fraction=0.0)[0] for name in SCHEDULES}
    cosine = 2 * (1 + np.cos(np.pi / 100)) / 2
    expected = {"constant": 2.0, "linear": 2 * 0.99, "cosine": cosine, "rsqrt": 2.0, "wsd": 2.0}
    assert first == pytest.approx(expected)


def declared(params):
    """Declarations of parameters whose matrices are named `kernel`."""

    def declare(path, x):
        is_kernel = path[-1].key == "kernel"
        summed = (-2,) if is_kernel else ()
        layers = ("layers",) * (path[0].key == "layers")
        names = (*layers, *(None,) * (x.ndim - len(layers)))
        return Declared(x, names, summed=summed, decayed=is_kernel)

    return declarations_of(jax.tree_util.tree_map_with_path(declare, params))


def optimizer_of(config, rate, params):
    return make_optimizer(config, lambda _: rate, declared(params))


def test_only_what_is_declared_decayed_decays():
    mask = is_decayed(declared(PARAMS))(PARAMS)
    assert mask["layers"]["up"] == {"kernel": True, "bias": False}
    assert not mask["embedding"] and not mask["norm"]["scale"]
    optimizer = optimizer_of(OptimizerConfig(name="adamw", weight_decay=0.5), 0.1, PARAMS)
    zeros = optax.tree.zeros_like(PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["layers"]["up"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["embedding"], 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name):
    target = {"a": {"kernel": jnp.ones((3, 6, 6))}, "b": {"bias": jnp.ones(6)}}
    params = optax.tree.zeros_like(target)
    loss = lambda p: sum(  # noqa: E731
        jnp.sum((x - y) ** 2)
        for x, y in zip(jax.tree.leaves(p), jax.tree.leaves(target), strict=True)
    )
    rate = 0.2 if name == "muon" else 0.02  # muon's bias learns at a tenth of its rate
    optimizer = optimizer_of(OptimizerConfig(name=name, weight_decay=0.0), rate, params)
    state, first = optimizer.init(params), float(loss(params))

    @jax.jit
    def descend(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(100):
        params, state = descend(params, state)
    assert float(loss(params)) < 0.5 * first


def test_muon_orthogonalises_each_matrix_of_a_stack():
    rotations = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 3, 8, 8)))[0]
    stretched = rotations[0] @ np.diag(np.linspace(1, 5, 8)) @ rotations[1]
    grads = {"kernel": jnp.asarray(stretched, jnp.float32)}
    config = OptimizerConfig(name="muon", weight_decay=0.0, clip_norm=0.0)
    optimizer = optimizer_of(config, 1.0, grads)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    for matrix in np.asarray(updates["kernel"]):
        singular = np.linalg.svd(matrix, compute_uv=False)
        assert 0.6 < singular.min() and singular.max() < 1.3  # five Newton-Schulz steps


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimizerConfig(name="sgd", beta1=0.0, clip_norm=1.0)
    grads = {"a": jnp.full(4, 30.0), "b": jnp.full(4, -40.0)}
    optimizer = optimizer_of(config, 1.0, grads)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    assert float(optax.global_norm(updates)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_clipped_by_its_root_mean_square_over_the_rate_layer_by_layer(name):
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32)  # noqa: E731
    schedule = lambda step: 0.1 / (1 + step)  # noqa: E731
    config = OptimizerConfig(name=name, weight_decay=0.5, clip_norm=0.0, clip_update=0.3)
    configs = dataclasses.replace(config, clip_update=0.0), config
    plain, clipping = (make_optimizer(c, schedule, declared(PARAMS)) for c in configs)
    states, factors = [plain.init(PARAMS), clipping.init(PARAMS)], []

    def compare(path, whole, found):
        parts = whole if path[0].key == "layers" else whole[None]
        axes = tuple(range(1, parts.ndim))
        rms = np.sqrt(np.mean(np.square(np.asarray(parts)), axes, keepdims=True))
        factor = np.minimum(1, bound / rms)
        np.testing.assert_allclose(found, (parts * factor).reshape(found.shape), rtol=1e-5)
        factors.extend(factor.ravel())

    for step in range(2):
        grads, bound = jax.tree.map(draw, PARAMS), 0.3 * schedule(step)
        whole, states[0] = plain.update(grads, states[0], PARAMS)
        found, states[1] = clipping.update(grads, states[1], PARAMS)
        jax.tree_util.tree_map_with_path(compare, whole, found)
    assert len(factors) == 2 * 6 and min(factors) < 1
