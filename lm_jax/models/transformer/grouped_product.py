"""Rows in groups, each group times a matrix of its own: the products of a mixture of experts.

On accelerators these are `jax.lax.ragged_dot`. On a CPU that would multiply every row by every
matrix; there blocks of rows of one group are multiplied in a loop. Primitives of their own keep the
choice out of a jaxpr, so that FLOPs are counted alike.

Axes: m rows, e groups, i inputs, o outputs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_LARGEST_BLOCK = 128  # rows


@jax.custom_vjp
def grouped_product(x_mi: jax.Array, kernels_eio: jax.Array, sizes_e: jax.Array) -> jax.Array:
    """Returns [m, o]: the first sizes_e[0] rows times the first matrix, and so on; then zeros."""
    return PRODUCT.bind(x_mi, kernels_eio, sizes_e, transposed=False)


def _forward(x_mi, kernels_eio, sizes_e):
    return grouped_product(x_mi, kernels_eio, sizes_e), (x_mi, kernels_eio, sizes_e)


def _backward(saved, dy_mo):
    x_mi, kernels_eio, sizes_e = saved
    dx_mi = PRODUCT.bind(dy_mo, kernels_eio, sizes_e, transposed=True)
    dkernels_eio = OUTER_PRODUCT.bind(x_mi, dy_mo, sizes_e)
    return dx_mi, dkernels_eio.astype(kernels_eio.dtype), None


grouped_product.defvjp(_forward, _backward)


class _Blocks(NamedTuple):
    """Blocks of consecutive rows of one group; the last of a group reaches into the next one."""

    size: int
    group: jax.Array  # of each block
    first: jax.Array  # row of each block
    end: jax.Array  # row after the last of its group
    number: jax.Array  # how many there are; the arrays are as long as there can be


def _blocks(rows: int, sizes_e: jax.Array) -> _Blocks:
    groups = len(sizes_e)
    size = min(max(-(-rows // groups), 1), _LARGEST_BLOCK)
    blocks_e = -(-sizes_e // size)
    before_e, rows_after_e = jnp.cumsum(blocks_e) - blocks_e, jnp.cumsum(sizes_e)
    index = jnp.arange(rows // size + groups)
    is_later = index[:, None] >= jnp.cumsum(blocks_e)[:-1]
    group = jnp.sum(is_later, axis=1)
    end = rows_after_e[group]
    first = end - sizes_e[group] + (index - before_e[group]) * size
    return _Blocks(size, group, first, end, jnp.sum(blocks_e))


def _rows(x_mi: jax.Array, blocks: _Blocks, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x_mi, blocks.first[index], blocks.size)


def _padded(x_mi: jax.Array, blocks: _Blocks) -> jax.Array:
    return jnp.pad(x_mi, ((0, blocks.size), (0, 0)))


def _blocked_product(x_mi, kernels_eio, sizes_e, *, transposed: bool):
    blocks = _blocks(len(x_mi), sizes_e)
    padded_mi = _padded(x_mi, blocks)

    def visit(index, y_mo):
        kernel_io = kernels_eio[blocks.group[index]]
        part_mo = _rows(padded_mi, blocks, index) @ (kernel_io.T if transposed else kernel_io)
        # What a block writes beyond its group, the next group's first block writes again.
        return jax.lax.dynamic_update_slice_in_dim(y_mo, part_mo, blocks.first[index], 0)

    outputs = kernels_eio.shape[1 if transposed else 2]
    y_mo = jnp.zeros((len(padded_mi), outputs), x_mi.dtype)
    y_mo = jax.lax.fori_loop(0, blocks.number, visit, y_mo)[: len(x_mi)]
    return jnp.where(jnp.arange(len(x_mi))[:, None] < jnp.sum(sizes_e), y_mo, 0)


def _blocked_outer_product(x_mi, dy_mo, sizes_e):
    blocks = _blocks(len(x_mi), sizes_e)
    x_mi, dy_mo = _padded(x_mi, blocks), _padded(dy_mo, blocks)

    def visit(index, total_eio):
        is_own_m = blocks.first[index] + jnp.arange(blocks.size) < blocks.end[index]
        own_mi = jnp.where(is_own_m[:, None], _rows(x_mi, blocks, index), 0)
        part_io = jnp.matmul(
            own_mi.T, _rows(dy_mo, blocks, index), preferred_element_type=jnp.float32
        )
        return total_eio.at[blocks.group[index]].add(part_io)

    total_eio = jnp.zeros((len(sizes_e), x_mi.shape[1], dy_mo.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, blocks.number, visit, total_eio)


def _ragged_product(x_mi, kernels_eio, sizes_e, *, transposed: bool):
    return jax.lax.ragged_dot(x_mi, kernels_eio.mT if transposed else kernels_eio, sizes_e)


def _ragged_outer_product(x_mi, dy_mo, sizes_e):
    over_rows = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(([0], [0]), ([], [])),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    return jax.lax.ragged_dot_general(
        x_mi, dy_mo, sizes_e, over_rows, preferred_element_type=jnp.float32
    )


def _item(x: jax.Array, index: jax.Array, axis: int | None) -> jax.Array:
    return x if axis is None else jax.lax.dynamic_index_in_dim(x, index, axis, keepdims=False)


def _primitive(name: str, on_cpu: Callable[..., Any], elsewhere: Callable[..., Any]) -> Primitive:
    """Returns a primitive of one result that XLA computes as one of two functions."""
    made = Primitive(name)

    def abstract(*shapes: Any, **options: Any):
        (result,) = jax.make_jaxpr(lambda *xs: on_cpu(*xs, **options))(*shapes).out_avals
        return result

    def batched(arguments: Any, axes: Any, **options: Any):
        def one(index: jax.Array) -> jax.Array:
            pairs = zip(arguments, axes, strict=True)
            return made.bind(*(_item(x, index, axis) for x, axis in pairs), **options)

        (size,) = {
            x.shape[axis] for x, axis in zip(arguments, axes, strict=True) if axis is not None
        }
        return jax.lax.map(one, jnp.arange(size)), 0

    made.def_abstract_eval(abstract)
    made.def_impl(lambda *xs, **options: jax.jit(lambda *xs: made.bind(*xs, **options))(*xs))
    batching.primitive_batchers[made] = batched
    mlir.register_lowering(made, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(made, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    return made


PRODUCT = _primitive("grouped_product", _blocked_product, _ragged_product)
OUTER_PRODUCT = _primitive("grouped_outer_product", _blocked_outer_product, _ragged_outer_product)
