"""Auxiliary losses and metrics: exact over parts of a batch and devices, kept out of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import make_loss_function, sum_by_document
from lm_jax.evaluation.metrics import prediction_measures
from lm_jax.models.interface import Auxiliary, Losses
from lm_jax.parallel import sharding
from lm_jax.training.gradients import make_gradients
from lm_jax.training.loop import NonFiniteLoss, SkippedInARow
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import make_train_step

ROWS, TIME = 8, 3
RNG = np.random.default_rng(0)
# Rows of few targets and one of none, so that a mean of means would be another number.
WEIGHTS = (np.arange(TIME) < np.array([3, 1, 2, 0, 3, 3, 1, 2])[:, None]).astype(np.float32)
BATCH = {
    "inputs": RNG.normal(size=(ROWS, TIME)).astype(np.float32),
    "targets": np.zeros((ROWS, TIME), np.int32),
    "weights": WEIGHTS,
}
SLOPE, BIAS = 0.7, -0.2


def losses_of(params, batch):
    x_bt = batch["inputs"]
    squares = jnp.square(params["slope"] * x_bt + params["bias"])
    return squares, jnp.abs(params["slope"] * x_bt[:, 0]), jnp.abs(params["bias"]) + 1


def loss(variables, batch, *, train, key):
    per_target, per_row, per_batch = losses_of(variables["params"], batch)
    auxiliary = {
        "per_target": Auxiliary(3 * per_target, 0.5),
        "per_row": Auxiliary(per_row, 2.0),
        "per_batch": Auxiliary(per_batch, 0.1),
    }
    metrics = {"largest": per_target * 10}
    return Losses(per_target, 0 * per_target, None, auxiliary, metrics), {}


def by_hand(params):
    """Cross-entropy, each average, and the trained loss, from their definitions."""
    per_target, per_row, per_batch = losses_of(params, BATCH)
    counts = WEIGHTS.sum(axis=1) > 0
    cross_entropy = jnp.sum(per_target * WEIGHTS) / WEIGHTS.sum()
    row_mean = jnp.sum(per_row * counts) / counts.sum()
    total = cross_entropy + 0.5 * 3 * cross_entropy + 2.0 * row_mean + 0.1 * per_batch
    return total, (cross_entropy, 3 * cross_entropy, row_mean, per_batch, 10 * cross_entropy)


def step_once(parts=1, batch=BATCH, loss=loss):
    optimizer = optax.sgd(1.0)
    params = {"slope": jnp.float32(SLOPE), "bias": jnp.float32(BIAS)}
    state = TrainState(jnp.int32(0), jax.random.key(0), params, {}, optimizer.init(params))
    step = jax.jit(make_train_step(make_gradients(loss, parts), optimizer, lambda _: 1.0))
    new, metrics = step(state, batch)
    gradients = jax.tree.map(lambda before, after: before - after, params, new.params)
    return gradients, metrics


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_a_step_trains_the_sum_whatever_the_parts(parts):
    gradients, metrics = step_once(parts)
    params = {"slope": jnp.float32(SLOPE), "bias": jnp.float32(BIAS)}
    (total, figures), expected = jax.value_and_grad(by_hand, has_aux=True)(params)
    assert gradients == pytest.approx(jax.tree.map(float, expected), rel=1e-5)
    names = ("loss", "per_target", "per_row", "per_batch", "largest")
    expected = list(map(float, figures))
    assert [float(metrics[name]) for name in names] == pytest.approx(expected, rel=1e-5)
    assert float(metrics["total_loss"]) == pytest.approx(float(total), rel=1e-5)


def test_a_cross_entropy_of_no_weight_is_reported_and_not_trained():
    def own_loss(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        term = {"own": Auxiliary(jnp.abs(variables["params"]["bias"]), 1.0)}
        return losses._replace(auxiliary=term, metrics={}, coefficient=0.0), stats

    gradients, metrics = step_once(loss=own_loss)
    assert gradients == pytest.approx({"slope": 0.0, "bias": -1.0})
    assert float(metrics["total_loss"]) == pytest.approx(abs(BIAS))
    reported = by_hand({"slope": SLOPE, "bias": BIAS})[1][0]
    assert float(metrics["loss"]) == pytest.approx(float(reported))


def test_without_auxiliary_terms_nothing_else_is_reported():
    def plain(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        return losses._replace(auxiliary={}, metrics={}), stats

    _, metrics = step_once(loss=plain)
    assert metrics.keys() == {"loss", "gradient_norm", "learning_rate", "targets", "skipped"}


@pytest.mark.parametrize("name", ["loss", "total_loss", "learning_rate"])
def test_a_name_that_the_step_uses_is_refused(name):
    def named(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        return losses._replace(metrics={name: losses.nats}), stats

    with pytest.raises(UserError, match=f"is called {name}; choose another name"):
        step_once(loss=named)


def test_a_value_of_another_shape_is_refused():
    def misshapen(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        return losses._replace(metrics={"m": losses.nats[:, :2]}), stats

    with pytest.raises(UserError, match=r"has shape \(8, 2\); expected that of the targets"):
        step_once(loss=misshapen)


@pytest.mark.parametrize("rows", [8, 4, 2, 1])
def test_evaluation_sums_them_over_batches_of_any_size(rows):
    def without_scalar(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        terms = {name: losses.auxiliary[name] for name in ("per_target", "per_row")}
        return losses._replace(auxiliary=terms), stats

    whole = BATCH | {"documents": np.zeros((ROWS, TIME), np.int32)}
    batches = [
        {name: value[start : start + rows] for name, value in whole.items()}
        for start in range(0, ROWS, rows)
    ]
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    params = {"slope": jnp.float32(SLOPE), "bias": jnp.float32(BIAS)}
    with sharding.on_mesh(mesh):
        sums = sum_by_document(
            make_loss_function(without_scalar), {"params": params}, batches, 1, mesh
        )
    cross_entropy, per_target, per_row, _, largest = by_hand(params)[1]
    measures = prediction_measures(sums, "tokens")
    assert measures["cross_entropy"] == pytest.approx(float(cross_entropy), rel=1e-6)
    expected = {"per_target": per_target, "per_row": per_row, "largest": largest}
    assert measures["auxiliary"] == pytest.approx(jax.tree.map(float, expected), rel=1e-5)


def test_the_end_of_a_run_whose_updates_are_skipped_names_the_cause():
    def check(**metrics):
        given = {"skipped": np.array([0, 1, 0]), "gradient_norm": np.full(3, np.nan)}
        SkippedInARow(1).check(10, given | metrics)

    metrics = {"loss": np.ones(3), "total_loss": np.array([1.0, np.inf, 1.0])}
    with pytest.raises(NonFiniteLoss, match="step 9 is inf, because the coefficient of an aux"):
        check(**metrics)
    metrics["balance"] = metrics["total_loss"]
    with pytest.raises(NonFiniteLoss, match="step 9 is inf, because balance is not finite: the up"):
        check(**metrics)
    metrics["targets"] = np.array([4.0, 0.0, 4.0])
    with pytest.raises(NonFiniteLoss, match="the batch of step 9 has no target that counts"):
        check(**metrics)
    del metrics["targets"]
    metrics["loss"] = metrics["total_loss"]
    with pytest.raises(NonFiniteLoss, match="the loss of step 9 is inf: the update was skipped, a"):
        check(**metrics)
    with pytest.raises(NonFiniteLoss, match="gradient of step 9 has the norm nan, its loss is 1:"):
        check(loss=np.ones(3))


def test_what_a_loss_of_ones_own_gets_wrong_is_named():
    def scalar(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        return losses._replace(nats=jnp.sum(losses.nats)), stats

    def bare(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        return losses._replace(auxiliary={"balance": losses.nats}), stats

    def uncounted(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        return losses._replace(correct=None), stats

    with pytest.raises(UserError, match=r"correct of shape \(\); expected that of the targets"):
        step_once(loss=uncounted)
    with pytest.raises(UserError, match=r"nats of shape \(\); expected that of the targets"):
        step_once(loss=scalar)
    with pytest.raises(UserError, match="the auxiliary loss balance is a .*expected an Auxiliary"):
        step_once(loss=bare)


@pytest.mark.parametrize("coefficient", [float("nan"), -float("inf"), np.float32(np.inf), None])
def test_a_coefficient_that_is_no_finite_number_is_named(coefficient):
    def weighted(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        terms = losses.auxiliary | {"balance": Auxiliary(losses.nats, coefficient)}
        return losses._replace(auxiliary=terms), stats

    def unweighted(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        return losses._replace(coefficient=coefficient), stats

    with pytest.raises(UserError, match=f"of the auxiliary loss balance is {coefficient}; expect"):
        step_once(loss=weighted)
    with pytest.raises(UserError, match=f"cross-entropy .Losses.coefficient. is {coefficient};"):
        step_once(loss=unweighted)


def test_a_traced_coefficient_is_taken():
    def weighted(variables, batch, **kwargs):
        losses, stats = loss(variables, batch, **kwargs)
        coefficient = jnp.abs(variables["params"]["bias"])
        return losses._replace(auxiliary={"b": Auxiliary(losses.nats, coefficient)}), stats

    _, metrics = step_once(loss=weighted)
    assert float(metrics["total_loss"]) == pytest.approx((1 + abs(BIAS)) * float(metrics["loss"]))
