"""Layers that all Transformers share: products, norms, activations and tables.

Axes: b batch, t time, d model width, i inputs, o outputs.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.host import has_avx512
from lm_jax.models.dense_product import dense_product
from lm_jax.models.parameters import declared, declared_kernel, declared_table
from lm_jax.models.target import target
from lm_jax.models.transformer.fused_norms import layer_norm, rms_norm

if TYPE_CHECKING:  # the configuration takes its choices from here
    from lm_jax.models.transformer.config import BlocksConfig

GATES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "swiglu": nn.silu,
    "geglu": lambda x: nn.gelu(x, approximate=True),
}
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}
_FEW_ROWS = 64  # that may be multiplied from the right


def reads_transposed() -> bool:
    """Returns whether few rows meet a matrix faster that is stored transposed: see `product`.

    A CPU without AVX-512 multiplies 8 rows by 768 x 3,072 at 43 instead of 16 GFLOP/s so (Zen 3),
    one with it at 54 instead of 83 (Zen 5; jaxlib 0.10.2, one core). XLA for GPUs reads one in int8
    in place, for one row, and otherwise makes a copy of it in the dtype of the product.
    """
    return target() != "cpu" or not has_avx512()


def product(x: jax.Array, kernel_io: jax.Array, dtype: Any = None) -> jax.Array:
    """Returns x [..., i] times a matrix that is stored transposed, [..., o].

    At most 64 rows are multiplied as columns, from the right.

    Args:
      dtype: of the result; None: that of the inputs.
    """
    rows, (inputs, outputs) = math.prod(x.shape[:-1]), kernel_io.shape
    if rows > _FEW_ROWS:
        return jnp.matmul(x, kernel_io, preferred_element_type=dtype)
    y_or = jnp.matmul(kernel_io.T, x.reshape(rows, inputs).T, preferred_element_type=dtype)
    return y_or.T.reshape(*x.shape[:-1], outputs)


def _product(x, kernel_io, dimension_numbers, precision=None, preferred_element_type=None):
    """Calls `product` with the arguments that Flax gives a `dot_general`."""
    return product(x, kernel_io, preferred_element_type)


def dense(
    config: "BlocksConfig",
    dtype: Any,
    features: int,
    axes: tuple[str, str],
    name: str | None = None,
    stddev: float = 0.02,
    transposed: bool = False,
    head: bool = False,
    bias: bool = False,
) -> nn.Dense:
    """Returns a linear layer, with biases where the configuration has them.

    Args:
      axes: logical axes of the kernel [in, out].
      transposed: the kernel is stored transposed, as `unstacked` leaves it.
      head: the layer belongs to the model's head.
      bias: it has biases in any case.
    """
    return nn.Dense(
        features,
        use_bias=config.use_bias or bias,
        dtype=dtype,
        dot_general=_product if transposed else dense_product,
        kernel_init=declared_kernel(nn.initializers.normal(stddev), axes, head=head),
        bias_init=declared(nn.initializers.zeros, axes[1:], head=head),
        name=name,
    )


class _FusedLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` of the same parameters, by `layer_norm`."""

    @nn.compact
    def __call__(self, x, *, mask=None):
        if _is_row(x):
            return super().__call__(x)
        scale_d = self.param("scale", self.scale_init, x.shape[-1:])
        bias_d = self.param("bias", self.bias_init, x.shape[-1:]) if self.use_bias else None
        y = layer_norm(_as_rows(x), scale_d, bias_d, self.epsilon)
        return y.reshape(x.shape).astype(self.dtype)


class _FusedRMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` of the same parameters, by `rms_norm`."""

    @nn.compact
    def __call__(self, x, *, mask=None):
        if _is_row(x):
            return super().__call__(x)
        scale_d = self.param("scale", self.scale_init, x.shape[-1:])
        return rms_norm(_as_rows(x), scale_d, self.epsilon).reshape(x.shape).astype(self.dtype)


def _is_row(x: jax.Array) -> bool:
    """Returns whether x is a single row, which XLA norms inside the kernels around it."""
    return x.size == x.shape[-1]


def _as_rows(x: jax.Array) -> jax.Array:
    """Returns x as a matrix; heads, which may be split over devices, as they are."""
    return x.reshape(-1, x.shape[-1]) if x.ndim == 3 else x


def _fuses_norms(config: "BlocksConfig") -> bool:
    # What is recomputed XLA makes together with what it adds, and in the same pass.
    return _is_matrix() and config.remat == "none"


def _layer_norm(config: "BlocksConfig", dtype: Any, name: str | None, head: bool) -> nn.Module:
    kind = _FusedLayerNorm if _fuses_norms(config) else nn.LayerNorm
    return kind(
        epsilon=config.norm_epsilon,
        use_bias=config.use_bias,
        dtype=dtype,
        scale_init=declared(nn.initializers.ones, ("norm",), head=head),
        bias_init=declared(nn.initializers.zeros, ("norm",), head=head),
        name=name,
    )


def _rms_norm(config: "BlocksConfig", dtype: Any, name: str | None, head: bool) -> nn.Module:
    kind = _FusedRMSNorm if _fuses_norms(config) else nn.RMSNorm
    scale = declared(nn.initializers.ones, ("norm",), head=head)
    return kind(epsilon=config.norm_epsilon, dtype=dtype, scale_init=scale, name=name)


NORMS: dict[str, Callable[["BlocksConfig", Any, str | None, bool], nn.Module]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
}


def norm(config: "BlocksConfig", dtype: Any, name: str | None = None, head: bool = False) -> Any:
    """Returns the norm that the configuration chooses, as a module of this name."""
    return NORMS[config.norm](config, dtype, name, head)


class NormOrder(NamedTuple):
    """Where the norms of a block stand: suffixes of their names, empty where there is none."""

    before: str = ""  # of what attention or feed-forward reads
    after: str = ""  # of what it adds
    of_sum: str = ""  # of both; the last block then needs no norm after it


NORM_ORDERS = {
    "pre": NormOrder(before="norm"),
    "post": NormOrder(of_sum="norm"),
    "both": NormOrder(before="norm", after="post_norm"),
    "post_block": NormOrder(after="norm"),
}


def _is_matrix() -> bool:
    """Returns whether [b, t, d] can be read as a matrix [b t, d], and is for a GPU."""
    splits_time = jax.sharding.get_abstract_mesh().shape.get("sequence", 1) > 1
    return target() == "cuda" and not splits_time


def added(x_btd: jax.Array, y_btd: jax.Array) -> jax.Array:
    """Returns x_btd + y_btd; for GPUs it is added as a matrix [b t, d].

    XLA for GPUs adds it inside the product that makes y_btd, a matrix. An x_btd of another shape
    it copies first.
    """
    if not _is_matrix() or x_btd.shape != y_btd.shape:
        return x_btd + y_btd
    width = x_btd.shape[-1]
    return (x_btd.reshape(-1, width) + y_btd.reshape(-1, width)).reshape(x_btd.shape)


def read_by_three(x_btd: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x_btd for each of three products; GPUs sum their gradients in these products.

    XLA for GPUs makes a product's result and adds the other operand in one kernel, if the product
    stands left of it. Autodiff puts it right, so that one of two additions was a pass of its own.
    """
    return _read_by_three(x_btd) if _is_matrix() else (x_btd, x_btd, x_btd)


@jax.custom_vjp
def _read_by_three(x_btd):
    return x_btd, x_btd, x_btd


_read_by_three.defvjp(
    lambda x_btd: ((x_btd, x_btd, x_btd), None),
    lambda _, gradients: (added(gradients[2], added(gradients[1], gradients[0])),),
)


def split_heads(y_btd: jax.Array, width: int) -> jax.Array:
    """Returns heads of this width, [b, t, h, k]."""
    return y_btd.reshape(*y_btd.shape[:2], -1, width)


QK_NORMS: dict[str, Callable[[Callable[[jax.Array], jax.Array], jax.Array, int], jax.Array]] = {
    "none": lambda normalize, y_btd, width: split_heads(y_btd, width),
    "head": lambda normalize, y_btd, width: normalize(split_heads(y_btd, width)),
    "all": lambda normalize, y_btd, width: split_heads(normalize(y_btd), width),
}
"""Name -> (norm, queries or keys, width of a head) -> heads [b, t, h, k], normalised."""


def residual_stddev(config: "BlocksConfig") -> float:
    """Returns the initial deviation of kernels that write to the residual stream.

    Radford et al. 2019, section 2.3.
    """
    return 0.02 / math.sqrt(2 * config.num_layers)


def activate(config: "BlocksConfig", x: jax.Array) -> jax.Array:
    """Applies the non-linearity of a configuration; for a gated unit, the gate's."""
    return (ACTIVATIONS | GATES)[config.activation](x)


def table(
    module: nn.Module,
    name: str,
    shape: tuple[int, int],
    axes: tuple[str, str],
    output: bool = False,
    head: bool = False,
) -> jax.Array:
    """Creates a parameter of `module` whose rows are looked up, or (`output`) give logits."""
    normal = declared_table(nn.initializers.normal(0.02), axes, output=output, head=head)
    return module.param(name, normal, shape)  # type: ignore[return-value]  # Flax unboxes it
