"""Learning-rate schedules and optimizers by name, all of them optax's."""

from typing import Any

import jax
import optax

from lm_jax.config.experiment import OptimizerConfig
from lm_jax.errors import UserError


def is_matrix(params: Any) -> Any:
    """A tree of bools: True for the weights of matrix products inside the network.

    These are the leaves that Flax names `kernel`; embeddings, output tables, norms and biases
    are not among them. Weight decay and Muon act on these leaves only.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The named optimizer behind clipping by the global norm."""
    decay = {"weight_decay": config.weight_decay, "mask": is_matrix}
    betas = {"b1": config.beta1, "b2": config.beta2}
    if config.name == "adamw":
        optimizer = optax.adamw(schedule, **betas, eps=config.epsilon, **decay)
    elif config.name == "adam":
        optimizer = optax.adam(schedule, **betas, eps=config.epsilon)
    elif config.name == "sgd":
        penalty = optax.add_decayed_weights(config.weight_decay, is_matrix)  # L2: of the gradient
        optimizer = optax.chain(penalty, optax.sgd(schedule, momentum=config.beta1 or None))
    elif config.name == "lion":
        optimizer = optax.lion(schedule, **betas, **decay)
    elif config.name == "adafactor":
        optimizer = optax.adafactor(
            schedule,
            multiply_by_parameter_scale=False,
            weight_decay_rate=None,
            clipping_threshold=None,
        )
    else:
        optimizer = _muon(config, schedule)
    if not config.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def is_head(params: Any) -> Any:
    """A tree of bools: True for the parameters of the module named `head`, a classifier's last."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(part.key == "head" for part in path), params
    )


def update_head_only(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer for the head alone; all other parameters stay as they are.

    Raises:
      UserError: at init, when no parameter belongs to a head.
    """

    def labels(params: Any) -> Any:
        heads = is_head(params)
        if not any(jax.tree.leaves(heads)):
            raise UserError("fine_tuning.parameters=head: this model has no module named `head`")
        return jax.tree.map(lambda head: "update" if head else "keep", heads)

    return optax.multi_transform({"update": optimizer, "keep": optax.set_to_zero()}, labels)


def _muon(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) on the matrices, AdamW on the rest."""

    def dimensions(params):
        # The last two axes are the matrix; the axes before them (layers) are a batch of matrices.
        matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
        return jax.tree.map(lambda use: matrix if use else None, is_matrix(params))

    return optax.contrib.muon(
        schedule,
        weight_decay=config.weight_decay,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        adam_learning_rate=lambda step: config.adam_learning_rate_ratio * schedule(step),
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=None,
    )
