import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.build import build_experiment, training_batches
from lm_jax.data import TokenizerConfig, prepare
from lm_jax.errors import UserError
from lm_jax.models.parameters import Declared
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.parallel import sharding
from lm_jax.runs.initial_state import describe
from lm_jax.training.gradients import make_gradients
from lm_jax.training.loop import Hooks, NonFiniteLoss, SkippedInARow, fit
from lm_jax.training.state import TrainState, inherit, init_state, variables_of
from lm_jax.training.train_step import jit_train_steps, make_train_step
from tests.conftest import slow_but
from tests.experiments import tiny
from tests.models.jitted import jitted

BYTES = TokenizerConfig("byte")


def losses(check=lambda step, metrics: None, **fields):
    """The losses of all steps, and the final state; `check` sees the metrics first."""
    config = tiny(data__tokenizer=BYTES, **fields)
    corpus = prepare(config.data)
    sizes = corpus.sizes
    built = build_experiment(config, sizes, jax.devices()[:1])
    state = init_state(built.model, built.optimizer, built.example, built.mesh, config.seed)
    found = []

    def log(step, metrics):
        check(step, metrics)
        found.extend(metrics["loss"].tolist())

    hooks = Hooks(
        log=log,
        evaluate=lambda step, state: True,
        save=lambda step, state: None,
        stop_requested=lambda step: False,
    )
    steps = jit_train_steps(built.train_step)
    with sharding.on_mesh(built.mesh):
        batches = training_batches(built, corpus)
        state = fit(steps, state, batches, config, built.mesh, hooks)
    return np.array(found), state


@pytest.fixture(scope="module")
def one_device():
    return losses()


class Numbers:
    """Batches of one number each: the step."""

    note = ""

    def __getitem__(self, step):
        return {"inputs": np.array([step])}


@pytest.mark.parametrize(
    ("stops_at", "evaluated", "saved"),
    [(None, [8, 16, 20], [6, 12, 18, 20]), (11, [8], [6, 11])],
)
def test_every_step_is_taken_once_and_evaluated_and_saved_when_asked(stops_at, evaluated, saved):
    config = tiny(training__num_steps=20, training__steps_per_call=4, evaluation__every_steps=8)
    config.checkpoint.every_steps = 6
    seen, calls = [], {"evaluate": [], "save": []}

    def train_steps(state, batch):
        seen.extend(batch["inputs"][:, 0].tolist())
        return state._replace(step=state.step + len(batch["inputs"])), {
            "loss": jnp.zeros(len(batch["inputs"]))
        }

    hooks = Hooks(
        log=lambda step, metrics: None,
        evaluate=lambda step, state: calls["evaluate"].append(step) or True,
        save=lambda step, state: calls["save"].append(step),
        stop_requested=lambda step: stops_at is not None and step >= stops_at,
    )
    if stops_at:
        config.training.steps_per_call = 1
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    state = fit(train_steps, TrainState(0, None, {}, {}, None), Numbers(), config, mesh, hooks)
    assert state.step == (stops_at or 20) and seen == list(range(state.step))
    assert calls == {"evaluate": evaluated, "save": saved}


def test_the_loss_falls(one_device):
    found, _ = one_device
    assert found[0] == pytest.approx(np.log(257), rel=0.02)
    assert found[-1] < found[0] - 0.4


@pytest.mark.parametrize("parts", slow_but([2, 8], 8))
def test_accumulated_gradients_equal_those_of_the_whole_batch(parts, one_device):
    found, _ = losses(training__gradient_accumulation_steps=parts)
    np.testing.assert_allclose(found, one_device[0], atol=1e-4)


def test_unequal_weights_are_averaged_over_the_whole_batch():
    config = tiny(data__tokenizer=BYTES)
    built = build_experiment(config, {"vocab_size": 257}, jax.devices()[:1])
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 257, (8, 33)), jnp.int32)
    weights = jnp.asarray(rng.integers(0, 2, (8, 32)), jnp.float32).at[:4].set(0).at[0, 0].set(1)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
    state = init_state(built.model, built.optimizer, batch, built.mesh, 0)
    nats = jitted(built.model).loss(variables_of(state), batch, train=False)[0].nats
    expected = float(jnp.sum(nats * weights) / jnp.sum(weights))
    for parts in (1, 4):
        step = make_train_step(make_gradients(built.loss, parts), built.optimizer, lambda _: 0.0)
        _, metrics = jax.jit(step)(state, batch)
        assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
        assert float(metrics["targets"]) == float(weights.sum())


def test_several_steps_a_call_equal_one(one_device):
    found, state = losses(training__steps_per_call=1)
    np.testing.assert_allclose(found, one_device[0], atol=1e-4)
    assert int(state.step) == 20


def test_training_twice_gives_the_same_bits(one_device):
    found, state = losses()
    np.testing.assert_array_equal(found, one_device[0])
    jax.tree.map(np.testing.assert_array_equal, state.params, one_device[1].params)


def test_dropout_follows_the_seed_and_the_step():
    config = tiny(data__tokenizer=BYTES, model__dropout_rate=0.3)
    built = build_experiment(config, {"vocab_size": 257}, jax.devices()[:1])
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 257, (8, 33)), jnp.int32)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": jnp.ones((8, 32))}
    state = init_state(built.model, built.optimizer, batch, built.mesh, 0)
    step = jax.jit(make_train_step(built.gradients, built.optimizer, lambda _: 0.0))

    def loss(**changed):
        return float(step(state._replace(**changed), batch)[1]["loss"])

    assert loss() == loss()
    assert len({loss(), loss(step=state.step + 1), loss(key=jax.random.key(1))}) == 3


def test_a_loss_that_stays_no_number_ends_the_run():
    with pytest.raises(NonFiniteLoss, match="the loss of step 4 is nan: the last 3 .* lower"):
        losses(
            SkippedInARow(3).check,
            schedule__peak_learning_rate=1e30,
            schedule__warmup_steps=0,
            optimizer__clip_norm=0.0,
            optimizer__name="sgd",
        )


def test_a_batch_that_does_not_divide_over_the_mesh_is_refused():
    with pytest.raises(UserError, match="training batch of 12 sequences .* multiple of 8"):
        build_experiment(tiny(training__batch_size=12, mesh="data:8"), {"vocab_size": 300})


def smoothed_cross_entropy(logits, targets, smoothing):
    """Returns the mean cross-entropy in nats with labels mixed with the uniform distribution."""
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    likelihood = np.take_along_axis(log_p, np.asarray(targets)[..., None], axis=-1)[..., 0]
    return -((1 - smoothing) * likelihood + smoothing * log_p.mean(axis=-1)).mean()


def test_smoothed_labels_are_mixed_with_the_uniform_distribution():
    config = tiny(data__tokenizer=BYTES, training__label_smoothing=0.1)
    built = build_experiment(config, {"vocab_size": 257}, jax.devices()[:1])
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 257, (8, 33)), jnp.int32)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": jnp.ones((8, 32))}
    state = init_state(built.model, built.optimizer, batch, built.mesh, 0)
    params = jax.tree.map(lambda x: 5 * x, state.params)  # far from uniform
    state = state._replace(params=params)
    model = jitted(built.model)
    logits, _ = model.apply(variables_of(state), batch, train=False)
    expected = smoothed_cross_entropy(logits, batch["targets"], 0.1)
    _, metrics = jax.jit(built.train_step)(state, batch)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    exact = model.loss(variables_of(state), batch, train=False)[0].nats.mean()
    assert abs(float(exact) - expected) > 1e-3  # ten times the tolerance above


def test_labels_of_a_model_that_samples_its_targets_are_not_smoothed():
    config = tiny(objective="skip_gram", model=SkipGramConfig(), training__label_smoothing=0.1)
    with pytest.raises(UserError, match="label_smoothing is 0.1, but what this model is trained"):
        build_experiment(config, {"vocab_size": 257}, jax.devices()[:1])
    with pytest.raises(UserError, match="label_smoothing is 1.0; expected"):
        build_experiment(tiny(training__label_smoothing=1.0), {"vocab_size": 257})


def test_parameters_of_another_run_are_taken_over_where_they_fit():
    zeros = {"positions": jnp.zeros((4, 2)), "kernel": jnp.zeros((3, 2)), "head": jnp.zeros(5)}
    theirs = {"positions": np.arange(16.0).reshape(8, 2), "kernel": np.ones((3, 2)),
              "head": np.ones(7)}  # fmt: skip
    table = Declared(zeros["positions"], ("positions", "embed"), looked_up=True)
    state = TrainState(jnp.int32(0), jax.random.key(0), zeros, {}, ())
    theirs["other"] = np.ones((1, 2))
    state = state._replace(params=zeros | {"bias": jnp.zeros(2)})
    state, found = inherit(state, {"params": theirs}, {"positions": table})
    assert found.taken == {"params/kernel": [3, 2], "params/positions": [4, 2]}
    assert found.new == {"params/bias": [2]} and found.unused == {"params/other": [1, 2]}
    assert found.other_shape == {"params/head": [[7], [5]]}
    assert describe(found, "RUN") == [
        "2 arrays taken from RUN: kernel [3, 2], positions [4, 2]",
        "1 array new: bias [2]",
        "1 array of another shape than in RUN, and therefore new: head [5] here, [7] there",
        "1 array of RUN that this model does not have: other [1, 2]",
    ]
    np.testing.assert_array_equal(state.params["positions"], theirs["positions"][:4])
    np.testing.assert_array_equal(state.params["kernel"], theirs["kernel"])
    assert not state.params["head"].any()
