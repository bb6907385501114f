"""The pure train step, and several of them as one dispatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm_jax.models.interface import Batch, Variables
from lm_jax.models.target import target, target_device
from lm_jax.parallel.xla_flags import step_options
from lm_jax.training.gradients import Gradients, Reported, parts_of
from lm_jax.training.loss_scaling import Scaled, adjusted, scale_of
from lm_jax.training.skipping import is_skipped
from lm_jax.training.state import TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Reported]]


def make_train_step(
    gradients: Gradients,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    is_trained: Callable[[Any], Any] | None = None,
    skip_above: float = 0.0,
) -> TrainStep:
    """Returns the pure `train_step(state, batch) -> state, metrics`.

    Metrics are what the gradients report, the gradient's norm, the rate and the number of targets.

    An update whose loss or gradient is not finite is skipped: parameters, statistics and the
    optimizer's state stay as they are, bit for bit, the step counts, and `skipped` is 1.

    Where the optimizer is `scaling`, the loss is scaled while it is differentiated, and metrics
    have `loss_scale`.

    Args:
      is_trained: (parameters) -> a tree of bools, which of them have gradients and are updated;
        None: all.
      skip_above: also skip an update whose loss or gradient norm is above this many times its
        running median; `optimizer` is then `remembering`, within `scaling` if there are both. 0:
        never.
    """
    extended = optax.with_extra_args_support(optimizer)

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        mask = None if is_trained is None else is_trained(state.params)
        parts = parts_of(state.params, mask)
        scale = scale_of(state.opt_state)
        grads, stats, reported = gradients(parts, state.stats, batch, key, scale)
        total, norm = reported.get("total_loss", reported["loss"]), optax.global_norm(grads)

        def update() -> tuple[Any, Variables, Any]:
            whole = parts._replace(trained=grads).joined(jnp.zeros_like)
            measured = {"loss": total, "norm": norm} if skip_above else {}
            updates, opt_state = extended.update(whole, state.opt_state, state.params, **measured)
            trained = optax.apply_updates(parts.trained, parts_of(updates, mask).trained)
            return parts._replace(trained=trained).joined(), stats, opt_state

        is_scaled = isinstance(state.opt_state, Scaled)
        remembered = state.opt_state.inner if is_scaled else state.opt_state
        skipped = is_skipped(total, norm, remembered, skip_above)
        before = state.params, state.stats, state.opt_state
        params, stats_after, opt_state = _unless(skipped, update, before)
        metrics = reported | {
            "gradient_norm": norm,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "targets": jnp.sum(batch["weights"]),
            "skipped": skipped.astype(jnp.float32),
        }
        if is_scaled:
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
