"""The pure train step, and several of them as one dispatch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm_jax.errors import UserError
from lm_jax.models.interface import (
    Auxiliary,
    Batch,
    Losses,
    LossFunction,
    Variables,
    counting_weights,
    named_values,
)
from lm_jax.models.target import target
from lm_jax.parallel.xla_flags import STEP_OPTIONS
from lm_jax.training.loss_scaling import adjusted
from lm_jax.training.skipping import is_skipped
from lm_jax.training.state import TrainState

Reported = dict[str, jax.Array]  # metrics by name
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Reported]]


class _Denominators(NamedTuple):
    """What the sums of a whole optimizer batch are divided by, however it is cut into parts."""

    targets: jax.Array
    rows: jax.Array  # rows that have a target


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
    trained_loss = _make_trained_loss(loss, fixed_features, label_smoothing, z_loss)
    gradients = _make_gradients(trained_loss, gradient_accumulation_steps)
    extended = optax.with_extra_args_support(optimizer)

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        mask = None if is_trained is None else is_trained(state.params)
        parts = _split(state.params, mask)
        scale = state.opt_state.scale if loss_scaling else None
        grads, stats, reported = gradients(parts, state.stats, batch, key, scale)
        total, norm = reported.get("total_loss", reported["loss"]), optax.global_norm(grads)

        def update() -> tuple[Any, Variables, Any]:
            whole = parts._replace(trained=grads).joined(jnp.zeros_like)
            measured = {"loss": total, "norm": norm} if skip_above else {}
            updates, opt_state = extended.update(whole, state.opt_state, state.params, **measured)
            trained = optax.apply_updates(parts.trained, _split(updates, mask).trained)
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


class _Parts(NamedTuple):
    """Parameters, or a tree of their structure, as those that are trained and the others."""

    trained: Any  # the tree, or the leaves that are trained
    others: Any = ()  # leaves
    mask: Any = None  # None: the whole tree is trained

    def joined(self, other: Callable[[Any], Any] = lambda x: x) -> Any:
        """Returns the tree, with a function of each leaf that is not trained."""
        if self.mask is None:
            return self.trained
        trained, others = iter(self.trained), iter(self.others)
        return jax.tree.map(lambda one: next(trained) if one else other(next(others)), self.mask)


def _split(tree: Any, mask: Any) -> _Parts:
    if mask is None:
        return _Parts(tree)
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True))
    return _Parts([x for x, one in pairs if one], [x for x, one in pairs if not one], mask)


_TrainedLoss = Callable[..., tuple[jax.Array, tuple[Variables, Reported]]]
"""(trained parameters, all parts, statistics, batch, denominators, key) -> what is trained, (new
statistics, what is reported); sums over the parts of a batch are those of the whole."""


def _make_trained_loss(
    loss: LossFunction, fixed_features: bool, label_smoothing: float, z_loss: float
) -> _TrainedLoss:
    """Returns the differentiated function; the arguments are those of `make_train_step`."""

    def trained_loss(trained, parts: _Parts, stats, batch, denominators: _Denominators, key):
        variables = {"params": parts._replace(trained=trained).joined(), **stats}
        losses, new_stats = loss(variables, batch, train=not fixed_features, key=key)
        for name, values in (("nats", losses.nats), ("correct", losses.correct)):
            if jnp.shape(values) != batch["weights"].shape:
                raise UserError(
                    f"the loss gives {name} of shape {jnp.shape(values)}; expected that of the "
                    f"targets {batch['weights'].shape}, one value a target"
                )
        nats = losses.nats
        if label_smoothing:
            if losses.uniform_nats is None:
                raise UserError("label smoothing needs `Losses.uniform_nats` of the model")
            nats = (1 - label_smoothing) * nats + label_smoothing * losses.uniform_nats
        if z_loss:
            losses = _with_z_loss(losses, z_loss)
        cross_entropy = jnp.sum(nats * batch["weights"]) / denominators.targets
        named = _averages(losses, batch["weights"], denominators)
        total = _total(cross_entropy, losses, named)
        reported = {"loss": cross_entropy, **named}
        if losses.auxiliary:
            reported["total_loss"] = total
        return total, (stats if fixed_features else new_stats, reported)

    return trained_loss


def _with_z_loss(losses: Losses, coefficient: float) -> Losses:
    """Adds the squared log-normalizer as the auxiliary term `z_loss`."""
    if losses.log_normalizer is None:
        raise UserError("training.z_loss needs `Losses.log_normalizer` of the model")
    term = Auxiliary(jnp.square(losses.log_normalizer), coefficient)
    return losses._replace(auxiliary={**losses.auxiliary, "z_loss": term})


def _make_gradients(
    trained_loss: _TrainedLoss, accumulation_steps: int
) -> Callable[..., tuple[Any, Variables, Reported]]:
    """Returns a function from parameters, statistics, batch, key and scale to gradients.

    It returns gradients of `_Parts.trained`, new statistics, and what is reported.

    Args:
      accumulation_steps: parts of a batch, computed one after another, whose gradients are summed.
    """

    def of_whole(params: _Parts, stats: Variables, batch: Batch, key: jax.Array, scale: Any):
        denominators, grad = _denominators(batch["weights"]), _scaled_grad(trained_loss, scale)
        grads, (stats, reported) = grad(params.trained, params, stats, batch, denominators, key)
        return grads, stats, reported

    def of_parts(params: _Parts, stats: Variables, batch: Batch, key: jax.Array, scale: Any):
        denominators, grad = _denominators(batch["weights"]), _scaled_grad(trained_loss, scale)

        def accumulate(carry, part):
            grads, stats, reported = carry
            microbatch, index = part
            part_grads, (stats, part_reported) = grad(
                params.trained,
                params,
                stats,
                microbatch,
                denominators,
                jax.random.fold_in(key, index),
            )
            return (
                jax.tree.map(jnp.add, grads, part_grads),
                stats,
                jax.tree.map(jnp.add, reported, part_reported),
            ), None

        # Part i takes rows i, i + parts, ...: each device keeps rows that it already holds.
        split = jax.tree.map(
            lambda x: x.reshape(-1, accumulation_steps, *x.shape[1:]).swapaxes(0, 1), dict(batch)
        )
        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(
            functools.partial(trained_loss, parts=params),
            params.trained,
            stats=stats,
            batch=first,
            denominators=denominators,
            key=key,
        )
        reported = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[1][1])
        zero = (jax.tree.map(jnp.zeros_like, params.trained), stats, reported)
        return jax.lax.scan(accumulate, zero, (split, jnp.arange(accumulation_steps)))[0]

    return of_whole if accumulation_steps == 1 else of_parts


def _scaled_grad(function: _TrainedLoss, scale: jax.Array | None) -> Callable[..., Any]:
    """Returns the gradient of a function, whose value is scaled while it is differentiated."""
    if scale is None:
        return jax.grad(function, has_aux=True)

    def scaled(*args: Any) -> tuple[jax.Array, Any]:
        total, others = function(*args)
        return total * scale, others

    def grad(*args: Any) -> tuple[Any, Any]:
        grads, others = jax.grad(scaled, has_aux=True)(*args)
        return jax.tree.map(lambda x: x / scale, grads), others

    return grad


_OWN_METRICS = (
    *("loss", "total_loss", "gradient_norm", "learning_rate", "targets", "skipped"),
    "loss_scale",
)


def _denominators(weights: jax.Array) -> _Denominators:
    """Targets and rows of a whole batch."""
    rows = counting_weights(jnp.zeros(len(weights)), weights)
    return _Denominators(jnp.sum(weights), jnp.sum(rows))


def _averages(
    losses: Losses, weights: jax.Array, denominators: _Denominators
) -> dict[str, jax.Array]:
    """Returns what a part of a batch adds to the average of each auxiliary term and metric."""
    averages = {}
    for name, values in named_values(losses).items():
        if name in _OWN_METRICS:
            raise UserError(f"an auxiliary loss or metric is called {name}; choose another name")
        counting = counting_weights(values, weights)
        is_per_target = values.shape == weights.shape
        whole = denominators.targets if is_per_target else denominators.rows
        averages[name] = jnp.sum(values * counting) / whole
    return averages


def _total(
    cross_entropy: jax.Array, losses: Losses, averages: Mapping[str, jax.Array]
) -> jax.Array:
    """Returns the trained loss: cross-entropy and auxiliary terms with their coefficients."""
    weighted = isinstance(losses.coefficient, jax.Array) or losses.coefficient != 1.0
    total = losses.coefficient * cross_entropy if weighted else cross_entropy
    for name, term in losses.auxiliary.items():
        total = total + term.coefficient * averages[name]
    return jnp.asarray(total)


def jit_train_steps(train_step: TrainStep) -> TrainStep:
    """Compiles several steps as one dispatch: batches [K, B, ...] to metrics [K]."""

    def train_steps(state: TrainState, batches: Batch):
        return jax.lax.scan(train_step, state, dict(batches))

    options = STEP_OPTIONS.get(target())
    return jax.jit(train_steps, donate_argnums=0, compiler_options=options)
