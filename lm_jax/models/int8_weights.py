"""Kernels of dense layers in int8, to decode with: a quarter of the bytes of float32.

Each output channel o of a kernel W [i, o] has a scale, s_o = max_i |W_io| / 127, and the layer
computes (x Q) s with Q = round(W / s) in int8: symmetric, per channel, of weights alone (the
weights' half of LLM.int8, Dettmers et al. 2022, section 2.1). Q becomes the dtype of the products
inside them, so that what is read from memory is int8.

All else stays: tables of embeddings, also where they are the output matrix, and a Transformer's
output matrix of its own; norms, biases, experts, convolutions of images and recurrent cells.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from lm_jax.models.dense_layers import intercepted, is_dense
from lm_jax.models.interface import Model, Variables

VALUES, SCALE = "kernel_int8", "kernel_scale"  # they stand in the place of `kernel`
_LARGEST = 127


def with_int8(model: Model) -> Model:
    """Returns a model whose functions also take variables as `in_int8` returns them.

    Its `merge` makes their kernels float32 again.
    """

    def merge(variables: Variables) -> Variables:
        return {**variables, "params": _whole(variables["params"])}

    return intercepted(model, _multiply)._replace(merge=merge)


def in_int8(variables: Variables, kernels: Collection[str]) -> Variables:
    """Returns variables with the kernels of these paths in int8, each beside its scales.

    Leading axes, such as layers, are axes of several matrices.
    """
    return {**variables, "params": _in_int8(variables["params"], frozenset(kernels), ())}


def rounded(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a kernel [..., i, o] in int8, and the scales [..., o] of its columns in float32.

    A weight is within half a scale of value times scale. A column of zeros has the scale 0.
    """
    kernel = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(kernel), axis=-2) / _LARGEST
    values = jnp.round(kernel / jnp.where(scale > 0, scale, 1)[..., None, :])
    return jnp.clip(values, -_LARGEST, _LARGEST).astype(jnp.int8), scale


_rounded = jax.jit(rounded)


def _in_int8(params: Any, kernels: frozenset[str], path: tuple[str, ...]) -> Any:
    if not isinstance(params, Mapping):
        return params
    found: dict[str, Any] = {}
    for name, value in params.items():
        if "/".join((*path, name)) in kernels:
            found[VALUES], found[SCALE] = _rounded(value)
        else:
            found[name] = _in_int8(value, kernels, (*path, name))
    return found


def _whole(params: Any) -> Any:
    """Returns nested dicts of parameters with float32 kernels."""
    if not isinstance(params, Mapping):
        return params
    if VALUES not in params:
        return {name: _whole(value) for name, value in params.items()}
    others = {name: value for name, value in params.items() if name not in (VALUES, SCALE)}
    return others | {"kernel": params[VALUES] * params[SCALE][..., None, :]}


def _multiply(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
) -> Any:
    """Returns what a module returns, as Flax's interceptors do; a kernel in int8 is multiplied."""
    module = context.module
    if not is_dense(context) or not module.has_variable("params", VALUES):
        return call(*args, **kwargs)
    values_io, scale_o = (module.get_variable("params", name) for name in (VALUES, SCALE))
    x, values_io = promote_dtype(args[0], values_io, dtype=module.dtype)
    y = (module.dot_general or jax.lax.dot_general)(
        x,
        values_io,
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=module.precision,
        preferred_element_type=jnp.float32,
    )
    y = (y * scale_o).astype(x.dtype)
    if not module.use_bias:
        return y
    return y + module.get_variable("params", "bias").astype(x.dtype)
