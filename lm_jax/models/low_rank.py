"""Low-rank adaptation: trained factors of an update beside frozen kernels (LoRA, Hu et al. 2021).

A dense layer of kernel W [i, o] computes x W + (alpha / rank) (x A) B, with A [i, rank] and
B [rank, o]. The product of A and B is not formed, nor is a gradient of W. B begins at zero, so the
model begins as the one that it adapts. The factors stand beside their kernel, as `lora_a` and
`lora_b`.
"""

import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from lm_jax.errors import UserError
from lm_jax.models.dense_layers import dense_kernels, intercepted, is_dense, kernel_of
from lm_jax.models.interface import Model, Variables
from lm_jax.models.parameters import declared

FACTORS = A, B = "lora_a", "lora_b"
_LISTED = 20  # paths of kernels in a message
# Uniform within 1 / sqrt(i), as in the authors' code (github.com/microsoft/LoRA, Linear).
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class LowRank(NamedTuple):
    """The updates of a model: their rank, the factor on them, and the kernels that have one."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # patterns of paths, `*` for any characters

    @property
    def scale(self) -> float:
        """The factor on the product of A and B."""
        return self.alpha / self.rank


def with_updates(model: Model, low_rank: LowRank, batch: Mapping[str, Any]) -> Model:
    """Returns a model whose `init` also creates factors, and whose functions add their updates.

    Its functions take variables without factors, too, and are then those of `model`.

    Args:
      batch: arrays or `ShapeDtypeStruct`s of any batch that the model takes.

    Raises:
      UserError: a pattern matches no kernel of a dense layer.
    """
    targets = _matching(dense_kernels(model, batch), low_rank.targets)
    add_updates = functools.partial(_with_update, low_rank, targets)

    def merge(variables: Variables) -> Variables:
        return {**variables, "params": merged(variables["params"], low_rank.scale)}

    def prepare(variables: Variables) -> Variables:
        whole = merge(variables)
        return model.prepare(whole) if model.prepare else whole

    return intercepted(model, add_updates)._replace(prepare=prepare, merge=merge)


def merged(params: Any, scale: float) -> Any:
    """Returns nested dicts of parameters with each update added to its kernel, without factors.

    Leading axes, such as layers, are axes of several matrices.
    """
    if not isinstance(params, Mapping):
        return params
    if A not in params:
        return {name: merged(value, scale) for name, value in params.items()}
    others = {name: value for name, value in params.items() if name not in FACTORS}
    with jax.default_matmul_precision("highest"):
        return others | {"kernel": params["kernel"] + scale * (params[A] @ params[B])}


def _matching(kernels: Sequence[str], patterns: Sequence[str]) -> frozenset[str]:
    """Returns the kernels that a pattern matches; raises UserError if one matches none."""
    found: set[str] = set()
    for pattern in patterns:
        matching = fnmatch.filter(kernels, pattern)
        if not matching:
            more = f" and {len(kernels) - _LISTED} more" if len(kernels) > _LISTED else ""
            listed = ", ".join(kernels[:_LISTED]) + more if kernels else "none"
            raise UserError(
                f"fine_tuning.lora_targets: {pattern!r} matches no kernel of a dense layer; this "
                f"model has {listed} (matrices of experts, convolutions and tables have no updates)"
            )
        found.update(matching)
    return frozenset(found)


def _with_update(
    low_rank: LowRank,
    targets: frozenset[str],
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Any,
) -> Any:
    """Returns what a module returns, as Flax's interceptors do; to a target its update is added."""
    y = call(*args, **kwargs)
    module = context.module
    if not is_dense(context):
        return y
    if module.is_initializing():
        if kernel_of(module) in targets:
            _create(module, low_rank.rank)
        return y
    if not module.has_variable("params", A):
        return y
    factors = (module.get_variable("params", name) for name in FACTORS)
    x, a, b = nn.dtypes.promote_dtype(args[0], *factors, dtype=module.dtype)
    return y + low_rank.scale * ((x @ a) @ b)


def _create(module: nn.Dense, rank: int) -> None:
    """Creates the factors of a layer; they have the logical axes of their kernel."""
    kernel: Any = module.get_variable("params", "kernel")
    (inputs, outputs), (i, o) = kernel.names[-2:], kernel.value.shape[-2:]

    def factor(initializer: Callable[..., jax.Array], axes: tuple[str | None, ...]) -> Any:
        return declared(initializer, axes, summed=(-2,), decayed=True, adapter=True)

    module.param(A, factor(_UNIFORM, (inputs, None)), (i, rank))
    module.param(B, factor(nn.initializers.zeros, (None, outputs)), (rank, o))
