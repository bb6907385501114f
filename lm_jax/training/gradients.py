"""The gradients of what is trained, over the parts that a batch is computed in."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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

Reported = dict[str, jax.Array]  # metrics by name
Gradients = Callable[..., tuple[Any, Variables, Reported]]
"""(parameters as `Parts`, statistics, batch, key, scale) -> gradients of `Parts.trained`, new
statistics, what is reported. The loss is multiplied by `scale` while it is differentiated; None: it
is not."""


def make_gradients(
    loss: LossFunction,
    accumulation_steps: int = 1,
    *,
    label_smoothing: float = 0.0,
    fixed_features: bool = False,
    z_loss: float = 0.0,
) -> Gradients:
    """Returns the gradients of the trained loss.

    It is the weighted mean of the cross-entropy over the whole batch, in nats, plus the auxiliary
    terms of `Losses`, also where the gradient is accumulated over parts of the batch whose weights
    differ. The cross-entropy is reported as `loss`, each auxiliary term and metric by its name
    and, where there are auxiliary terms, what is trained as `total_loss`.

    Args:
      loss: (variables, batch, *, train, key) -> Losses, new statistics.
      accumulation_steps: parts of a batch, which are computed one after another.
      label_smoothing: that share of a target is uniform over the vocabulary (Szegedy et al. 2016,
        section 7), also in `loss`.
      fixed_features: the model computes as in evaluation: no dropout, running statistics as they
        are.
      z_loss: coefficient of the mean squared log-normalizer of a target's logits, an auxiliary term
        that keeps them from drifting (Chowdhery et al. 2022, section 5: 1e-4).

    Raises:
      UserError: when traced, the model does not give what smoothing needs, or an auxiliary value
        has a wrong shape or a name that the step uses itself.
    """
    trained_loss = _make_trained_loss(loss, fixed_features, label_smoothing, z_loss)
    return _accumulated(trained_loss, accumulation_steps)


class _Denominators(NamedTuple):
    """What the sums of a whole optimizer batch are divided by, however it is cut into parts."""

    targets: jax.Array
    rows: jax.Array  # rows that have a target


class Parts(NamedTuple):
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


def parts_of(tree: Any, mask: Any) -> Parts:
    """Parts a tree by a tree of bools, which of its leaves are trained; None: all."""
    if mask is None:
        return Parts(tree)
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True))
    return Parts([x for x, one in pairs if one], [x for x, one in pairs if not one], mask)


_TrainedLoss = Callable[..., tuple[jax.Array, tuple[Variables, Reported]]]
"""(trained parameters, all parts, statistics, batch, denominators, key) -> what is trained, (new
statistics, what is reported); sums over the parts of a batch are those of the whole."""


def _make_trained_loss(
    loss: LossFunction, fixed_features: bool, label_smoothing: float, z_loss: float
) -> _TrainedLoss:
    """Returns the differentiated function; the arguments are those of `make_gradients`."""

    def trained_loss(trained, parts: Parts, stats, batch, denominators: _Denominators, key):
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


def _accumulated(trained_loss: _TrainedLoss, accumulation_steps: int) -> Gradients:
    """Returns the gradients, summed over parts of a batch that are computed one after another."""

    def of_whole(params: Parts, stats: Variables, batch: Batch, key: jax.Array, scale: Any):
        denominators, grad = _denominators(batch["weights"]), _scaled_grad(trained_loss, scale)
        grads, (stats, reported) = grad(params.trained, params, stats, batch, denominators, key)
        return grads, stats, reported

    def of_parts(params: Parts, stats: Variables, batch: Batch, key: jax.Array, scale: Any):
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
