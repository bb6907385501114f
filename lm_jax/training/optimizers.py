"""Optimizers by name, all of them optax's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm_jax.choices import choose
from lm_jax.config.experiment import OptimizerConfig
from lm_jax.errors import UserError
from lm_jax.models.parameters import Declarations, Declared, where

Mask = Callable[[Any], Any]
"""(parameters) -> a tree of bools with their structure."""


def is_decayed(declared: Declarations) -> Mask:
    """Returns the mask of the parameters on which weight decay acts."""
    return where(declared, lambda parameter: parameter.decayed)


def is_head(declared: Declarations) -> Mask:
    """Returns the mask of the parameters of a classifier's or a masked model's head."""
    return where(declared, lambda parameter: parameter.head)


def is_adapter(declared: Declarations) -> Mask:
    """Returns the mask of the factors of low-rank updates."""
    return where(declared, lambda parameter: parameter.adapter)


TRAINED: dict[str, Callable[[Declarations], Mask | None]] = {
    "all": lambda declared: None,
    "head": is_head,
    "lora": lambda declared: where(declared, lambda parameter: parameter.adapter or parameter.head),
}
"""Value of `fine_tuning.parameters` -> the mask of what is trained; None: everything."""


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, declared: Declarations
) -> optax.GradientTransformation:
    """Returns the named optimizer between clipping of gradients and clipping of updates.

    Args:
      schedule: learning rate of each step.
      declared: what each parameter is, by its path.

    Raises:
      UserError: there is no optimizer of this name.
    """
    optimizer = choose(OPTIMIZERS, config.name, "optimizer.name")(config, schedule, declared)
    if config.clip_update:
        optimizer = optax.chain(optimizer, clip_updates(config.clip_update, schedule, declared))
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer


def clip_updates(
    most: float, schedule: optax.Schedule, declared: Declarations
) -> optax.GradientTransformation:
    """Returns what scales the update of an array down to this root mean square over the rate.

    A stack of layers is an array for each of them. Adafactor clips so, before the rate and the
    decay are applied (Shazeer & Stern 2018, section 6).
    """

    def axes(parameter: Declared) -> tuple[int, ...]:
        return tuple(axis for axis, name in enumerate(parameter.names) if name != "layers")

    axes_of = where(declared, axes)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        bound = most * schedule(state.count)

        def clip(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
            rms = jnp.sqrt(jnp.mean(jnp.square(x), axes, keepdims=True))
            return x * jnp.minimum(1.0, bound / jnp.maximum(rms, jnp.finfo(x.dtype).tiny))

        clipped = jax.tree.map(clip, updates, axes_of(updates))
        return clipped, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(
        lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )


def update_only(
    optimizer: optax.GradientTransformation, is_trained: Mask
) -> optax.GradientTransformation:
    """Returns the optimizer for some parameters; it has no state of the others, which stay.

    Raises:
      UserError: at init, when no parameter is trained.
    """

    def labels(params: Any) -> Any:
        trained = is_trained(params)
        if not any(jax.tree.leaves(trained)):  # factors of updates are never missing
            raise UserError("fine_tuning.parameters=head: no parameter of this model is of a head")
        return jax.tree.map(lambda one: "update" if one else "keep", trained)

    return optax.multi_transform({"update": optimizer, "keep": optax.set_to_zero()}, labels)


def _adamw(
    config: OptimizerConfig, schedule: optax.Schedule, declared: Declarations
) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov & Hutter 2019)."""
    return optax.adamw(
        schedule,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=is_decayed(declared),
    )


def _adam(
    config: OptimizerConfig, schedule: optax.Schedule, declared: Declarations
) -> optax.GradientTransformation:
    """Returns Adam (Kingma & Ba 2015), without weight decay."""
    return optax.adam(schedule, b1=config.beta1, b2=config.beta2, eps=config.epsilon)


def _sgd(
    config: OptimizerConfig, schedule: optax.Schedule, declared: Declarations
) -> optax.GradientTransformation:
    """Returns SGD with momentum `beta1`; weight decay is an L2 penalty, added to the gradient."""
    penalty = optax.add_decayed_weights(config.weight_decay, is_decayed(declared))
    return optax.chain(penalty, optax.sgd(schedule, momentum=config.beta1 or None))


def _lion(
    config: OptimizerConfig, schedule: optax.Schedule, declared: Declarations
) -> optax.GradientTransformation:
    """Returns Lion (Chen et al. 2023)."""
    return optax.lion(
        schedule,
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=is_decayed(declared),
    )


def _adafactor(
    config: OptimizerConfig, schedule: optax.Schedule, declared: Declarations
) -> optax.GradientTransformation:
    """Returns Adafactor (Shazeer & Stern 2018), without weight decay and relative step sizes."""
    return optax.adafactor(
        schedule,
        multiply_by_parameter_scale=False,
        weight_decay_rate=None,
        clipping_threshold=None,
    )


def _muon(
    config: OptimizerConfig, schedule: optax.Schedule, declared: Declarations
) -> optax.GradientTransformation:
    """Returns Muon (Jordan et al. 2024) on the matrices, AdamW on the rest."""

    def dimensions(parameter: Declared) -> optax.contrib.MuonDimensionNumbers | None:
        if not parameter.is_matrix:
            return None
        # All other axes (layers, windows of a convolution) are a batch of matrices.
        return optax.contrib.MuonDimensionNumbers(parameter.summed, parameter.output_axis)

    return optax.contrib.muon(
        schedule,
        weight_decay=config.weight_decay,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        adam_learning_rate=lambda step: config.adam_learning_rate_ratio * schedule(step),
        muon_weight_dimension_numbers=where(declared, dimensions),
        consistent_rms=None,
    )


OPTIMIZERS: dict[
    str,
    Callable[[OptimizerConfig, optax.Schedule, Declarations], optax.GradientTransformation],
] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
}
