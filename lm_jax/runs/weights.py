"""What the weights of a run become when it is loaded: choices by name."""

from collections.abc import Callable

from lm_jax.build import BuiltExperiment
from lm_jax.errors import UserError
from lm_jax.models import family_name
from lm_jax.models.dense_layers import dense_kernels
from lm_jax.models.int8_weights import in_int8, with_int8
from lm_jax.models.interface import Variables

FLOAT32 = "float32"

Loaded = tuple[BuiltExperiment, Variables]


def _as_trained(built: BuiltExperiment, variables: Variables) -> Loaded:
    return built, variables


def _int8(built: BuiltExperiment, variables: Variables) -> Loaded:
    kernels = [] if built.model.is_count_based else dense_kernels(built.model, built.example)
    if not kernels:
        raise UserError(
            f"weights=int8 is about dense layers, and {family_name(built.experiment.model)} has "
            f"none; leave it out, or give weights={FLOAT32}"
        )
    return built._replace(model=with_int8(built.model)), in_int8(variables, kernels)


WEIGHTS: dict[str, Callable[[BuiltExperiment, Variables], Loaded]] = {
    FLOAT32: _as_trained,
    "int8": _int8,
}
"""Name -> (built experiment, variables) -> both with weights of that kind.

UserError where the model has no such weights.
"""
