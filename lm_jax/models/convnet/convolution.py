"""The convolution of images, in the forms that each device computes fast.

Layout is NHWC (b batch, h height, w width, c channels); kernels are [height, width, in, out].
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from lm_jax.models.target import target


def convolve(x_bhwc: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Returns the cross-correlation of images with a kernel, [b, h', w', out].

    Args:
      padding: zeros on every side, as PyTorch counts them.
    """
    rows, columns, channels, _ = kernel.shape
    if target() != "cpu":  # the vendor's own, gradients included
        return _convolution(x_bhwc, kernel, stride, [(padding, padding)] * 2)
    is_small = padding == 0 and rows * columns * channels <= _SMALL
    if rows * columns == 1 or channels == 1 or is_small:
        return _product_of_patches(x_bhwc, kernel, stride, padding)
    return _convolution_on_cpu(x_bhwc, kernel, stride, padding)


_SMALL = 150  # numbers of a patch: to about here one product is faster than XLA's gradient of x

_Padding = list[tuple[int, int]]  # zeros before and after the rows, and the columns


def _convolution(
    x_bhwc: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: _Padding,
    x_stride: int = 1,
    kernel_stride: int = 1,
) -> jax.Array:
    """Returns XLA's convolution; values of x or of the kernel may stand `stride` apart."""
    return lax.conv_general_dilated(
        x_bhwc,
        kernel,
        (stride, stride),
        padding,
        lhs_dilation=(x_stride, x_stride),
        rhs_dilation=(kernel_stride, kernel_stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _one_by_one(
    x_bhwc: jax.Array, kernel: jax.Array, stride: int, padding: _Padding, **strides: int
) -> jax.Array:
    """Returns `_convolution`; under vmap in a loop, for grouped convolutions are slow on a CPU."""

    @jax.custom_batching.sequential_vmap
    def convolution(x_bhwc: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolution(x_bhwc, kernel, stride, padding, **strides)

    return convolution(x_bhwc, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution_on_cpu(
    x_bhwc: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
    """Returns XLA's convolution, with gradients that XLA computes fast on a CPU in a loop, too.

    Its kernels for CPUs read NHWC and HWIO. XLA brings other layouts, which the gradients of
    autodiff have, into that form where they stand in the main program, but not in a loop over
    steps: there they take a hundred times as long. So these gradients are written in that form.
    """
    return _one_by_one(x_bhwc, kernel, stride, [(padding, padding)] * 2)


def _forward(x_bhwc: jax.Array, kernel: jax.Array, stride: int, padding: int):
    return _convolution_on_cpu(x_bhwc, kernel, stride, padding), (x_bhwc, kernel)


def _backward(stride: int, padding: int, kept: tuple[jax.Array, jax.Array], dy_bhwc: jax.Array):
    x_bhwc, kernel = kept
    # Along an axis of n values, the window of y at i begins in x at stride * i - padding.
    reach = [(n - 1) * stride + 1 for n in dy_bhwc.shape[1:3]]  # from y's first place to its last
    axes = list(zip(x_bhwc.shape[1:3], kernel.shape[:2], reach, strict=True))
    # The barriers keep transpositions out of the convolutions.
    turned = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    around = [(k - 1 - padding, n + padding - r) for n, k, r in axes]
    dx_bhwc = _one_by_one(dy_bhwc, turned, 1, around, x_stride=stride)
    # A kernel's gradient is x as seen through windows of dy, with the batch for channels.
    x_chwb = lax.optimization_barrier(x_bhwc.transpose(3, 1, 2, 0))
    dy_hwbc = lax.optimization_barrier(dy_bhwc.transpose(1, 2, 0, 3))
    within = [(padding, k - 1 + r - n - padding) for n, k, r in axes]
    dkernel = _one_by_one(x_chwb, dy_hwbc, 1, within, kernel_stride=stride)
    return dx_bhwc, dkernel.transpose(1, 2, 0, 3)


_convolution_on_cpu.defvjp(_forward, _backward)


def _product_of_patches(
    x_bhwc: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
    """Returns the convolution as one matrix product, for patches of few numbers."""
    rows, columns, channels, features = kernel.shape
    if padding:
        x_bhwc = jnp.pad(x_bhwc, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # Without the barrier XLA computes what made x anew for each of the slices.
    x_bhwc = lax.optimization_barrier(x_bhwc)
    height = (x_bhwc.shape[1] - rows) // stride + 1
    width = (x_bhwc.shape[2] - columns) // stride + 1
    patches_bhwp = jnp.concatenate(
        [
            x_bhwc[
                :,
                row : row + (height - 1) * stride + 1 : stride,
                column : column + (width - 1) * stride + 1 : stride,
            ]
            for row in range(rows)
            for column in range(columns)
        ],
        axis=-1,
    )
    y_nf = patches_bhwp.reshape(-1, rows * columns * channels) @ kernel.reshape(-1, features)
    return y_nf.reshape(*patches_bhwp.shape[:3], features)
