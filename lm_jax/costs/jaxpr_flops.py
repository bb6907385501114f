"""FLOPs of matrix products and convolutions, read from a traced function; nothing runs."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from lm_jax.errors import UserError
from lm_jax.models.transformer import grouped_product
from lm_jax.models.transformer.flash_attention import PRIMITIVE
from lm_jax.models.transformer.splash_attention import CALLS

# Primitives without matrix products: they work element by element, move data, reduce, sort or draw.
_WITHOUT_PRODUCTS = frozenset(
    """
    abs acos acosh add add_any after_all all_gather all_gather_invariant all_to_all and
    approx_top_k argmax argmin asin asinh atan atan2 atanh axis_index bessel_i0e bessel_i1e
    bitcast_convert_type broadcast_in_dim cbrt ceil clamp clz complex concatenate conj
    convert_element_type copy cos cosh create_token cumlogsumexp cummax cummin cumprod cumsum
    device_put digamma div dynamic_slice dynamic_update_slice empty2 eq eq_to erf erf_inv erfc
    exp exp2 expm1 floor gather ge gt igamma igammac imag integer_pow iota is_finite le le_to
    lgamma log log1p logistic lt lt_to max min mul name ne neg nextafter not
    optimization_barrier or pad pmax pmin polygamma population_count pow ppermute psum
    psum_invariant pvary random_bits random_clone random_fold_in random_gamma random_seed
    random_split random_unwrap random_wrap real reduce reduce_and reduce_max reduce_min
    reduce_or reduce_precision reduce_prod reduce_scatter reduce_sum reduce_window
    reduce_window_max reduce_window_min reduce_window_sum reduce_xor rem reshape reshard rev
    rng_bit_generator rng_uniform round rsqrt scatter scatter-add scatter-max scatter-min
    scatter-mul scatter-sub select_and_gather_add select_and_scatter select_and_scatter_add
    select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin
    sinh slice sort split sqrt square squeeze stop_gradient sub tan tanh threefry2x32 top_k
    transpose xor zeta
    """.split()
)
# Primitives that call a jaxpr once.
_CALLS = frozenset(
    """
    call checkpoint closed_call core_call custom_jvp_call custom_lin custom_vjp_call
    custom_vjp_call_jaxpr custom_vmap_call jit pjit remat remat2 shard_map
    """.split()
)

# What an input or a result of an equation is: whether a gradient is taken through it.
_Flags = Sequence[bool]
_Counted = tuple[int, list[bool]]  # FLOPs, and the flags of the results


def product_flops(jaxpr: Any, differentiated: _Flags | None = None) -> int:
    """Returns the FLOPs of a jaxpr's matrix products and convolutions; a multiply-add is 2.

    A loop of unknown length counts once, a conditional counts its most expensive branch, and a
    convolution counts no padding. Recomputation that saves memory does not count.

    Args:
      differentiated: a flag for each input; the backward pass is then counted too: one more
        product for each factor that depends on a flagged input.

    Raises:
      UserError: the jaxpr has a primitive whose cost is not known.
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
    if name in ("jit", "pjit") and params["name"] in CALLS.values():
        return _splash_attention(equation) * (1 + _backward_products(PRIMITIVE, flags)), results
    if name in _PRODUCTS:
        return _PRODUCTS[name](equation) * (1 + _backward_products(name, flags)), results
    if name in _WITHOUT_PRODUCTS:
        return 0, results
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
        results = [any(of_branches) for of_branches in zip(*(r for _, r in branches), strict=True)]
        return max(flops for flops, _ in branches), results
    if name not in _CALLS:
        raise UserError(
            f"FLOPs of the primitive {name!r} are not known; write the model with products that "
            "jax.lax counts (dot_general, ragged_dot, conv_general_dilated), or teach "
            "lm_jax/costs/jaxpr_flops.py what it costs"
        )
    if all(len(called.invars) == len(flags) for called in inner):
        counted = [_of_jaxpr(called, flags) for called in inner]
        results = counted[0][1] if counted else results
        return _parts(equation) * sum(flops for flops, _ in counted), results
    flops = sum(_of_jaxpr(called, [any(flags)] * len(called.invars))[0] for called in inner)
    return flops, results


def _of_loop(body: Any, flags: _Flags, start: int, end: int) -> _Counted:
    """Counts one iteration; the state is inputs `start` to `end`, and results begin with it."""
    flags = list(flags)
    while True:
        flops, results = _of_jaxpr(body, flags)
        state = [a or b for a, b in zip(flags[start:end], results, strict=False)]
        if state == flags[start:end]:
            return flops, results
        flags[start:end] = state


def _parts(equation: Any) -> int:
    """Returns the devices whose local shapes a `shard_map` body shows; 1 for other calls."""
    if equation.primitive.name != "shard_map":
        return 1
    mesh = equation.params["mesh"]
    return math.prod(mesh.shape[axis] for axis in equation.params["newly_manual_axes"])


def _dot_general(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    return _contraction(equation, contracted)


def _ragged_dot(equation: Any) -> int:
    """Counts FLOPs with all rows in some group; each row meets one group's matrix."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    flops = _contraction(equation, contracted)
    if set(numbers.lhs_ragged_dimensions) <= set(contracted):  # one result for each group
        return flops // equation.invars[2].aval.shape[-1]
    return flops


def _grouped_product(equation: Any) -> int:
    """Counts FLOPs as `_ragged_dot`: each row meets one group's matrix."""
    x, kernels, _ = equation.invars
    return 2 * x.aval.shape[0] * math.prod(kernels.aval.shape[1:])


def _grouped_outer_product(equation: Any) -> int:
    x, y, _ = equation.invars
    return 2 * x.aval.size * y.aval.shape[1]


def _contraction(equation: Any, contracted: Sequence[int]) -> int:
    left = equation.invars[0].aval.shape
    size = math.prod(equation.outvars[0].aval.shape)
    return 2 * size * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    numbers, params = equation.params["dimension_numbers"], equation.params
    x, kernel = (atom.aval.shape for atom in equation.invars)
    result = equation.outvars[0].aval.shape
    batch, features, *places = (result[axis] for axis in numbers.out_spec)
    _, channels, *taps = (kernel[axis] for axis in numbers.rhs_spec)
    sizes = [x[axis] for axis in numbers.lhs_spec[2:]]
    strides = params["window_strides"], params["lhs_dilation"], params["rhs_dilation"]
    axes = zip(sizes, taps, places, params["padding"], *strides, strict=True)
    return 2 * batch * features * channels * math.prod(_pairs_met(*axis) for axis in axes)


def _pairs_met(
    size: int,
    taps: int,
    places: int,
    padding: tuple[int, int],
    stride: int,
    x_stride: int,
    tap_stride: int,
) -> int:
    """Returns how many values a kernel meets along an axis in all its places, zeros apart."""
    first = np.arange(places)[:, None] * stride - padding[0]
    position = first + np.arange(taps) * tap_stride
    is_real = (position >= 0) & (position <= (size - 1) * x_stride) & (position % x_stride == 0)
    return int(is_real.sum())


def _fused_attention(equation: Any) -> int:
    """Counts FLOPs of q k^T and of the weights times v; half of them under a causal mask."""
    batch, queries, heads, width = equation.invars[0].aval.shape
    pairs = queries * equation.invars[1].aval.shape[1]
    spared = 2 if equation.params["mask_type"].name == "CAUSAL" else 1
    return 4 * batch * heads * width * pairs // spared


def _splash_attention(equation: Any) -> int:
    """Counts as `_fused_attention`, of the call of a kernel for TPUs with arrays [b, h, t, k]."""
    if not equation.outvars:  # nothing reads what it computes
        return 0
    queries, keys, *_ = (x.aval.shape for x in equation.invars if x.aval.ndim == 4)
    return 4 * math.prod(queries) * keys[2] // (1 + (equation.params["name"] == CALLS[True]))


_PRODUCTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot_general,
    "ragged_dot_general": _ragged_dot,
    grouped_product.PRODUCT.name: _grouped_product,
    grouped_product.OUTER_PRODUCT.name: _grouped_outer_product,
    "conv_general_dilated": _convolution,
    PRIMITIVE: _fused_attention,
}


def _backward_products(name: str, flags: _Flags) -> int:
    """Products of the backward pass, in units of the forward pass."""
    if name == PRIMITIVE:
        return 2 * any(flags)
    return sum(flags[:2])


def _jaxprs(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _jaxprs(value)
        elif isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
