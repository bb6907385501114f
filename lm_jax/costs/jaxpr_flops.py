"""Counts the FLOPs of matrix products and convolutions in a jaxpr, without running it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Literal

from lm_jax.models.transformer.flash_attention import PRIMITIVE

_Flags = Sequence[bool]  # for each input or result: whether a gradient flows through it
_Counted = tuple[int, list[bool]]  # FLOPs, and the flags of the results


def product_flops(jaxpr: Any, differentiated: _Flags | None = None) -> int:
    """Returns the FLOPs of the matrix products and convolutions; a multiply-add is 2 FLOPs.

    A loop of unknown length counts once, a conditional counts its most expensive branch, and
    convolutions count the padding that they read. Recomputation to save memory does not count.

    Args:
      differentiated: a flag for each input. The backward pass then counts too: one more product
        for each factor that depends on a flagged input. None: the forward pass only.
    """
    return _of_jaxpr(jaxpr, differentiated or [False] * len(jaxpr.invars))[0]


def _of_jaxpr(jaxpr: Any, flags: _Flags) -> _Counted:
    flagged = {variable for variable, flag in zip(jaxpr.invars, flags, strict=True) if flag}

    def has_gradient(atom: Any) -> bool:
        return not isinstance(atom, Literal) and atom in flagged

    total = 0
    for equation in jaxpr.eqns:
        flops, results = _of_equation(equation, [has_gradient(atom) for atom in equation.invars])
        total += flops
        for variable, flag in zip(equation.outvars, results, strict=True):
            if flag and jnp.issubdtype(variable.aval.dtype, jnp.inexact):
                flagged.add(variable)
    return total, [has_gradient(atom) for atom in jaxpr.outvars]


def _of_equation(equation: Any, flags: _Flags) -> _Counted:
    name, params = equation.primitive.name, equation.params
    results = [any(flags) and name != "stop_gradient"] * len(equation.outvars)
    if flops := _of_product(equation):
        return flops * (1 + _backward_products(name, flags)), results
    inner = list(_jaxprs(params.values()))
    if name == "scan":
        start = params["num_consts"]
        flops, results = _of_loop(inner[0], flags, start, start + params["num_carry"])
        return params["length"] * flops, results
    if name == "while":
        body, condition = params["body_jaxpr"].jaxpr, params["cond_jaxpr"].jaxpr
        flags, start = flags[params["cond_nconsts"] :], params["body_nconsts"]
        flops, results = _of_loop(body, flags, start, len(flags))
        return flops + product_flops(condition), results
    if name == "cond":
        branches = [_of_jaxpr(branch, flags[1:]) for branch in inner]
        results = [any(flags) for flags in zip(*(r for _, r in branches), strict=True)]
        return max(flops for flops, _ in branches), results
    if inner and all(len(called.invars) == len(flags) for called in inner):
        counted = [_of_jaxpr(called, flags) for called in inner]
        return _parts(equation) * sum(flops for flops, _ in counted), counted[0][1]
    flops = sum(_of_jaxpr(called, [any(flags)] * len(called.invars))[0] for called in inner)
    return flops, results


def _of_loop(body: Any, flags: _Flags, start: int, end: int) -> _Counted:
    """Counts one iteration of a loop; its state is inputs `start` to `end` and first results."""
    flags = list(flags)
    while True:
        flops, results = _of_jaxpr(body, flags)
        state = [a or b for a, b in zip(flags[start:end], results, strict=False)]
        if state == flags[start:end]:
            return flops, results
        flags[start:end] = state


def _parts(equation: Any) -> int:
    """Returns the number of devices whose local shapes a `shard_map` body shows."""
    if equation.primitive.name != "shard_map":
        return 1
    mesh = equation.params["mesh"]
    return math.prod(mesh.shape[axis] for axis in equation.params["newly_manual_axes"])


def _of_product(equation: Any) -> int:
    """Returns the FLOPs of an equation's product; 0 if it is not a product."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        left = equation.invars[0].aval.shape
        (contracted, _), _ = params["dimension_numbers"]
        size = math.prod(equation.outvars[0].aval.shape)
        return 2 * size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    if name == PRIMITIVE:
        batch, queries, heads, width = equation.invars[0].aval.shape
        pairs = queries * equation.invars[1].aval.shape[1]
        spared = 2 if params["mask_type"].name == "CAUSAL" else 1
        return 4 * batch * heads * width * pairs // spared
    return 0


def _backward_products(name: str, flags: _Flags) -> int:
    if name == PRIMITIVE:
        return 2 * any(flags)
    return sum(flags[:2])


def _jaxprs(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _jaxprs(value)
        elif hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)
