"""The pure train step, and several of them as one dispatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm_jax.models.interface import Batch, LossFunction, Variables
from lm_jax.models.target import target, target_device
from lm_jax.parallel.xla_flags import step_options
from lm_jax.training.gradients import Reported, make_gradients, parts_of
from lm_jax.training.loss_scaling import adjusted
from lm_jax.training.skipping import is_skipped
from lm_jax.training.state import TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Reported]]


def make_train_step(
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    gradient_accumulation_steps: int = 1,
    is_trained: Callable[[Any], Any] | None = None,
    label_smoothing: float = 0.0,
    *,
    fixed_features: bool = False,
    skip_above: float = 0.0,
    z_loss: float = 0.0,
    loss_scaling: bool = False,
) -> TrainStep:
    """Returns the pure `train_step(state, batch) -> state, metrics`.

    The trained loss is the weighted mean of the cross-entropy over the whole batch, in nats, plus
    the auxiliary terms of `Losses`, also when the gradient is accumulated over parts of the batch
    whose weights differ. Metrics have the cross-entropy as `loss`, each auxiliary term and metric
    by its name and, where there are auxiliary terms, what is trained as `total_loss`.

    An update whose loss or gradient is not finite is skipped: parameters, statistics and the
    optimizer's state stay as they are, bit for bit, the step counts, and `skipped` is 1.

    With `is_trained` there are no gradients of the other parameters, which stay as they are; with
    `fixed_features` the model also computes as in evaluation: no dropout, running statistics as
    they are. With `label_smoothing` that share of a target is uniform over the vocabulary (Szegedy
    et al. 2016, section 7), and `loss` includes it.

    Args:
      loss: (variables, batch, *, train, key) -> Losses, new statistics.
      is_trained: (parameters) -> a tree of bools, which of them are trained; None: all.
      skip_above: also skip an update whose loss or gradient norm is above this many times its
        running median; `optimizer` is then `remembering`. 0: never.
      z_loss: coefficient of the mean squared log-normalizer of a target's logits, an auxiliary term
        that keeps them from drifting (Chowdhery et al. 2022, section 5: 1e-4).
      loss_scaling: the loss is scaled where it is differentiated; `optimizer` is then `scaling`, of
        a `remembering` one if there are both. Metrics have `loss_scale`.

    Raises:
      UserError: when traced, the model does not give what smoothing needs, or an auxiliary value
        has a wrong shape or a name that the step uses itself.
    """
    gradients = make_gradients(
        loss,
        gradient_accumulation_steps,
        label_smoothing,
        fixed_features=fixed_features,
        z_loss=z_loss,
    )
    extended = optax.with_extra_args_support(optimizer)

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        mask = None if is_trained is None else is_trained(state.params)
        parts = parts_of(state.params, mask)
        scale = state.opt_state.scale if loss_scaling else None
        grads, stats, reported = gradients(parts, state.stats, batch, key, scale)
        total, norm = reported.get("total_loss", reported["loss"]), optax.global_norm(grads)

        def update() -> tuple[Any, Variables, Any]:
            whole = parts._replace(trained=grads).joined(jnp.zeros_like)
            measured = {"loss": total, "norm": norm} if skip_above else {}
            updates, opt_state = extended.update(whole, state.opt_state, state.params, **measured)
            trained = optax.apply_updates(parts.trained, parts_of(updates, mask).trained)
            return parts._replace(trained=trained).joined(), stats, opt_state

        remembered = state.opt_state.inner if loss_scaling else state.opt_state
        skipped = is_skipped(total, norm, remembered, skip_above)
        before = state.params, state.stats, state.opt_state
        params, stats_after, opt_state = _unless(skipped, update, before)
        metrics = reported | {
            "gradient_norm": norm,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "targets": jnp.sum(batch["weights"]),
            "skipped": skipped.astype(jnp.float32),
        }
        if loss_scaling:
            opt_state = adjusted(opt_state, jnp.isfinite(norm))
            metrics["loss_scale"] = scale
        return TrainState(state.step + 1, state.key, params, stats_after, opt_state), metrics

    return train_step


def _unless(skipped: jax.Array, update: Callable[[], Any], before: Any) -> Any:
    """Returns the updated arrays or, if it is skipped, those before.

    A CPU takes 1 to 8% of a small step for a choice of each element and nothing for a branch. A GPU
    chooses where it updates anyway, and would wait for its host before a branch.
    """
    if target() == "cpu":
        return jax.lax.cond(skipped, lambda: before, update)
    return jax.tree.map(lambda new, old: jnp.where(skipped, old, new), update(), before)


def jit_train_steps(train_step: TrainStep) -> TrainStep:
    """Compiles several steps as one dispatch: batches [K, B, ...] to metrics [K]."""

    def train_steps(state: TrainState, batches: Batch):
        return jax.lax.scan(train_step, state, dict(batches))

    options = step_options(target(), target_device().device_kind)
    return jax.jit(train_steps, donate_argnums=0, compiler_options=options or None)
