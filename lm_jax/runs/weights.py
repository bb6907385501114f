"""What the weights of a run become when it is loaded: choices by name."""

from collections.abc import Callable
from functools import partial

from lm_jax.build import BuiltExperiment
from lm_jax.errors import UserError
from lm_jax.models import family_name
from lm_jax.models.dense_layers import dense_kernels
from lm_jax.models.int8_weights import in_int8, with_int8
from lm_jax.models.interface import Variables

FLOAT32 = "float32"

Convert = Callable[[Variables], Variables]


def _as_trained(built: BuiltExperiment) -> tuple[BuiltExperiment, Convert]:
    return built, lambda variables: variables


def _int8(built: BuiltExperiment) -> tuple[BuiltExperiment, Convert]:
    kernels = [] if built.model.is_count_based else dense_kernels(built.model, built.example)
    if not kernels:
        raise UserError(
            f"weights=int8 is about dense layers, and {family_name(built.experiment.model)} has "
            f"none; leave it out, or give weights={FLOAT32}"
        )
    return built._replace(model=with_int8(built.model)), partial(in_int8, kernels=kernels)


WEIGHTS: dict[str, Callable[[BuiltExperiment], tuple[BuiltExperiment, Convert]]] = {
    FLOAT32: _as_trained,
    "int8": _int8,
}
"""Name -> (built experiment) -> one that also takes such weights, and variables -> those.

UserError where the model has no such weights.
"""


def weights_named(name: str) -> Callable[[BuiltExperiment], tuple[BuiltExperiment, Convert]]:
    """Returns the choice of this name; raises UserError if there is none."""
    if not isinstance(name, str) or name not in WEIGHTS:
        raise UserError(f"weights={name!r} is unknown; expected one of {', '.join(WEIGHTS)}")
    return WEIGHTS[name]
