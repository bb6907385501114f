"""The product of dense layers, whose gradients a CPU computes as fast as the product itself."""

import math
from typing import Any

import jax

from lm_jax.models.target import target

_MANY_ROWS = 128  # from here on a transposed copy pays for itself in a kernel's gradient


def dense_product(
    x: jax.Array,
    kernel_io: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Returns x [..., i] times a kernel [i, o]: the `dot_general` of a `flax.linen.Dense`."""
    if _has_many_rows(x):
        return times(x, kernel_io)
    return jax.lax.dot_general(x, kernel_io, dimension_numbers, precision, preferred_element_type)


def times(x: jax.Array, kernel_io: jax.Array) -> jax.Array:
    """Returns x [..., i] times a kernel [i, o]."""
    if not _has_many_rows(x):
        return x @ kernel_io
    inputs, outputs = kernel_io.shape
    return _product_of_many(x.reshape(-1, inputs), kernel_io).reshape(*x.shape[:-1], outputs)


def _has_many_rows(x: jax.Array) -> bool:
    """Returns whether a CPU multiplies so many rows, all on one device."""
    is_split = jax.sharding.get_abstract_mesh().size > 1
    return target() == "cpu" and not is_split and math.prod(x.shape[:-1]) >= _MANY_ROWS


@jax.custom_vjp
def _product_of_many(x_ni: jax.Array, kernel_io: jax.Array) -> jax.Array:
    """Returns x_ni kernel_io, whose gradients a CPU multiplies faster than those of autodiff.

    The gradient of the kernel sums over rows, and one factor lies transposed there, which XLA's
    fast kernels for CPUs do not take. With a copy of the narrower factor they do.
    """
    return x_ni @ kernel_io


def _forward(x_ni: jax.Array, kernel_io: jax.Array):
    return _product_of_many(x_ni, kernel_io), (x_ni, kernel_io)


def _backward(saved: tuple[jax.Array, jax.Array], dy_no: jax.Array):
    x_ni, kernel_io = saved
    copied = jax.lax.optimization_barrier  # or XLA takes the transposition back
    if x_ni.shape[1] <= dy_no.shape[1]:
        dkernel_io = copied(x_ni.T) @ dy_no
    else:
        dkernel_io = copied(copied(dy_no.T) @ x_ni).T
    return dy_no @ kernel_io.T, dkernel_io


_product_of_many.defvjp(_forward, _backward)
