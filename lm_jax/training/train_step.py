"""The pure train step, and several of them as one dispatch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lm_jax.errors import UserError
from lm_jax.models.interface import Batch, Model
from lm_jax.training.optimizers import is_head
from lm_jax.training.state import TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    gradient_accumulation_steps: int = 1,
    head_only: bool = False,
    label_smoothing: float = 0.0,
) -> TrainStep:
    """The pure `train_step(state, batch) -> state, metrics`.

    The loss is the weighted mean of the cross-entropy over the whole batch, in nats, also when
    the gradient is accumulated over parts of it whose weights differ. With `head_only` the rest of
    the model extracts features as in evaluation: no dropout, running statistics as they are, and
    no backward pass through it. With `label_smoothing` a target is that share uniform over the
    vocabulary (Szegedy et al. 2016, section 7), and so is the loss.

    Raises:
      UserError: when traced, the model does not give what smoothing needs.
    """

    def mean_loss(params, stats, batch, total_weight, key):
        if head_only:
            params = jax.tree.map(
                lambda x, head: x if head else jax.lax.stop_gradient(x), params, is_head(params)
            )
        variables = {"params": params, **stats}
        losses, new_stats = model.loss(variables, batch, train=not head_only, key=key)
        nats = losses.nats
        if label_smoothing:
            if losses.uniform_nats is None:
                raise UserError("label smoothing needs `Losses.uniform_nats` of the model")
            nats = (1 - label_smoothing) * nats + label_smoothing * losses.uniform_nats
        mean = jnp.sum(nats * batch["weights"]) / total_weight
        return mean, stats if head_only else new_stats

    def gradients(state: TrainState, batch: Batch, key: jax.Array):
        total_weight = jnp.sum(batch["weights"])
        value_and_grad = jax.value_and_grad(mean_loss, has_aux=True)
        parts = gradient_accumulation_steps
        if parts == 1:
            return value_and_grad(state.params, state.stats, batch, total_weight, key)

        def accumulate(carry, part):
            (loss, stats), total = carry
            microbatch, index = part
            (part_loss, stats), grads = value_and_grad(
                state.params, stats, microbatch, total_weight, jax.random.fold_in(key, index)
            )
            return ((loss + part_loss, stats), jax.tree.map(jnp.add, total, grads)), None

        # Part i takes rows i, i + parts, ...: each device keeps rows that it already holds.
        split = jax.tree.map(
            lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), dict(batch)
        )
        zero = ((jnp.float32(0), state.stats), jax.tree.map(jnp.zeros_like, state.params))
        return jax.lax.scan(accumulate, zero, (split, jnp.arange(parts)))[0]

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        (loss, stats), grads = gradients(state, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.global_norm(grads),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "targets": jnp.sum(batch["weights"]),
        }
        return TrainState(state.step + 1, state.key, params, stats, opt_state), metrics

    return train_step


def jit_train_steps(train_step: TrainStep) -> TrainStep:
    """Several steps as one dispatch: batches stacked [K, B, ...] to metrics stacked [K]."""

    def train_steps(state: TrainState, batches: Batch):
        return jax.lax.scan(train_step, state, dict(batches))

    return jax.jit(train_steps, donate_argnums=0)
