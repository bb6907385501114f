"""The contract that every model meets: pure functions over pytrees.

A batch is a dict of arrays, the same keys for every task:

  inputs     [B, T] int32, or images [B, H, W, C] float32: what the model reads
  targets    [B, T] or [B] int32: what it must predict
  weights    like targets, float32: 1 counts, 0 does not (padding, unmasked tokens)
  segments, positions  [B, T] int32, optional: documents that share a row; padding is segment 0
  source     [B, S] int32, optional: what an encoder reads
  source_segments, source_positions  [B, S] int32, optional: the source of segment n of a row is
             segment n of its source

`variables` is `{"params": ..., "batch_stats": ...?}`. A model family is a function from its
configuration to a `Model`. A `Carry` is a pytree whose arrays have the sequences as their first
axis, so that sequences can be taken out of it, repeated and reordered; scalars are common to all.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.errors import UserError

Batch = Mapping[str, jax.Array]
Variables = Mapping[str, Any]
Carry = Any


class Auxiliary(NamedTuple):
    """A term of the trained loss beside the cross-entropy, such as a router's balance or a KL.

    `values` has the shape of the targets (averaged over targets by their weights), or [B] (averaged
    over rows that have a target), or [] (one value a batch, which counts as each of its rows).
    """

    values: jax.Array  # float32
    coefficient: float | jax.Array  # the trained loss gains coefficient times the average


class Losses(NamedTuple):
    """What each target cost; the arrays have the shape of `batch["targets"]`, float32."""

    nats: jax.Array  # softmax cross-entropy, -log p(target)
    correct: jax.Array  # 1 where the target has the largest logit
    uniform_nats: jax.Array | None = None  # mean of -log p over all tokens, to smooth labels with
    auxiliary: Mapping[str, Auxiliary] = {}  # trained, and reported by name
    metrics: Mapping[str, jax.Array] = {}  # reported only; as `Auxiliary.values`
    coefficient: float | jax.Array = 1.0  # of the cross-entropy in the trained loss; 0: reported
    log_normalizer: jax.Array | None = None  # log of the sum of exp(logits), for the z-loss


LossFunction = Callable[..., tuple[Losses, Variables]]
"""(variables, batch, *, train, key) -> Losses, new statistics."""


def named_values(losses: Losses) -> dict[str, jax.Array]:
    """Returns the values of auxiliary terms and metrics by name.

    Raises:
      UserError: a term is no `Auxiliary`, or a coefficient no finite number.
    """
    _refuse_coefficient(losses.coefficient, "the cross-entropy (Losses.coefficient)")
    for name, term in losses.auxiliary.items():
        if not isinstance(term, Auxiliary):
            raise UserError(
                f"the auxiliary loss {name} is a {type(term).__name__}; expected an Auxiliary of "
                "values and a coefficient"
            )
        _refuse_coefficient(term.coefficient, f"the auxiliary loss {name}")
    return {name: term.values for name, term in losses.auxiliary.items()} | dict(losses.metrics)


def _refuse_coefficient(coefficient: Any, term: str) -> None:
    """Raises UserError for a coefficient that is no finite number; a traced one is not known."""
    if isinstance(coefficient, jax.core.Tracer):
        return
    try:
        is_finite = math.isfinite(coefficient)
    except (TypeError, OverflowError):
        is_finite = False
    if not is_finite:
        raise UserError(f"the coefficient of {term} is {coefficient}; expected a finite number")


def counting_weights(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the weights, of the shape of `values`, with which auxiliary values are averaged.

    Args:
      values: as `Auxiliary.values`.
      weights: `batch["weights"]`, [B, T] or [B].

    Raises:
      UserError: the values have none of the shapes that `Auxiliary` allows.
    """
    if values.shape == weights.shape:
        return weights
    rows_b = jnp.any(weights.reshape(len(weights), -1) > 0, axis=1).astype(jnp.float32)
    if values.shape == rows_b.shape:
        return rows_b
    if values.ndim == 0:
        return jnp.sum(rows_b)
    raise UserError(
        f"an auxiliary loss or metric has shape {values.shape}; expected that of the targets "
        f"{weights.shape}, one value a row {rows_b.shape}, or a scalar"
    )


class Model(NamedTuple):
    """A language model or classifier as pure functions (logits are float32)."""

    init: Callable[[jax.Array, Batch], Variables]
    """(key, batch) -> variables; parameters are boxed with their logical axis names."""

    apply: Callable[..., tuple[jax.Array, Variables]]
    """(variables, batch, *, train, key) -> logits, new_stats."""

    loss: Callable[..., tuple[Losses, Variables]]
    """(variables, batch, *, train, key) -> Losses, new_stats."""

    start: Callable[..., Carry] | None = None
    """(variables, batch_size, max_length) -> carry, the state before the first token.

    A model with an encoder takes also `source`, a batch of `source` and `source_segments`, all of
    segment 1 but for padding. None, as `step`, where a model does not generate."""

    step: Callable[[Variables, Carry, jax.Array], tuple[jax.Array, Carry]] | None = None
    """(variables, carry, tokens [B]) -> logits [B, V], carry; equals `apply` at that position."""

    fit: Callable[[Any], Variables] | None = None
    """(training split) -> variables, for models that count instead of descending a gradient."""

    read: Callable[[Variables, Carry, jax.Array], tuple[jax.Array, Carry]] | None = None
    """(variables, carry, tokens [B, P]) -> logits [B, V] after the last of them, carry.

    The same as P times `step`, all at once; None where a model has no faster way."""

    forget: Callable[[Carry, jax.Array | int], Carry] | None = None
    """(carry, n) -> the carry before its last n tokens; None where a model cannot tell them apart.

    Prompts of any length are then read in a few sizes, each of which is one program."""

    prepare: Callable[[Variables], Variables] | None = None
    """(variables) -> variables as `step` takes them fastest; `start`, `step` and `read` take both.

    Called once, before a loop; None where a model has no faster way."""

    merge: Callable[[Variables], Variables] | None = None
    """(variables) -> variables of whole kernels: with low-rank updates added, or int8 made float32.

    The functions of the model take both; families, which read parameters, take these. None: kernels
    are whole."""

    @property
    def is_count_based(self) -> bool:
        """Whether the model is fitted by counting, in one step and without gradients."""
        return self.fit is not None


def cross_entropy(logits: jax.Array, targets: jax.Array) -> Losses:
    """Returns the losses of each target: logits [..., V] float32, targets [...] int32."""
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    correct = jnp.argmax(logits, axis=-1) == targets
    uniform_nats = log_normalizer - jnp.mean(logits, axis=-1)
    return Losses(
        log_normalizer - target_logits,
        correct.astype(jnp.float32),
        uniform_nats,
        log_normalizer=log_normalizer,
    )


def loss_from_apply(apply: Callable[..., tuple[jax.Array, Variables]]):
    """Returns the `loss` of a model whose logits fit in memory."""

    def loss(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        logits, new_stats = apply(variables, batch, train=train, key=key)
        return cross_entropy(logits, batch["targets"]), new_stats

    return loss
