"""What convolutional networks are made of: pooling, normalisation, and the blocks.

Layout is NHWC (b batch, h height, w width, c channels); kernels are [height, width, in, out].
A padding is a number of zeros on every side, as PyTorch counts it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lm_jax.models.convnet.convolution import convolve
from lm_jax.models.parameters import declared, declared_kernel


def max_pool(x_bhwc: jax.Array, size: int, stride: int, padding: int | str) -> jax.Array:
    """Returns the largest value of each window; drops an incomplete last row or column of windows.

    Args:
      padding: a number, or "SAME": as many windows as strides fit, the odd zero at the end.
    """
    if size == stride == 2 and padding == 0:
        # Pairs of rows, then of columns: half the time of reduce_window's gradient on a CPU.
        batch, height, width, channels = x_bhwc.shape
        x_bhwc = x_bhwc[:, : height // 2 * 2, : width // 2 * 2]
        pairs = x_bhwc.reshape(batch, height // 2, 2, -1, channels)
        x_bhwc = jnp.maximum(pairs[:, :, 0], pairs[:, :, 1])
        pairs = x_bhwc.reshape(batch, height // 2, width // 2, 2, channels)
        return jnp.maximum(pairs[:, :, :, 0], pairs[:, :, :, 1])
    return nn.max_pool(x_bhwc, (size, size), (stride, stride), _pads(padding))


def _pads(padding: int | str):
    return padding if isinstance(padding, str) else [(padding, padding)] * 2


def local_response_norm(x_bhwc: jax.Array) -> jax.Array:
    """Divides each activation by (2 + 1e-4 * sum of squares in 5 channels)^0.75.

    Krizhevsky et al. 2012, section 3.3; float32 inside.
    """
    squares = jnp.square(x_bhwc.astype(jnp.float32))
    sums = lax.reduce_window(
        squares, 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 1), [(0, 0)] * 3 + [(2, 2)]
    )
    return (x_bhwc * (2.0 + 1e-4 * sums) ** -0.75).astype(x_bhwc.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015), in float32, with PyTorch's conventions.

    Training normalises by the batch (the whole of it, on however many devices) with the biased
    variance, and moves the running statistics a tenth of the way to the batch's mean and
    *unbiased* variance; otherwise the running statistics normalise.
    """

    train: bool

    @nn.compact
    def __call__(self, x_bhwc):
        channels = x_bhwc.shape[-1:]
        scale = declared(nn.initializers.ones, ("norm",))
        bias = declared(nn.initializers.zeros, ("norm",))
        scale_c = jnp.asarray(self.param("scale", scale, channels))
        bias_c = jnp.asarray(self.param("bias", bias, channels))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_variance = self.variable("batch_stats", "variance", jnp.ones, channels)
        x = x_bhwc.astype(jnp.float32)
        if self.train:
            mean_c = x.mean(axis=(0, 1, 2))
            variance_c = jnp.square(x - mean_c).mean(axis=(0, 1, 2))
            count = math.prod(x.shape[:3])
            unbiased_c = variance_c * (count / max(count - 1, 1))
            running_mean.value += 0.1 * (mean_c - running_mean.value)
            running_variance.value += 0.1 * (unbiased_c - running_variance.value)
        else:
            mean_c, variance_c = running_mean.value, running_variance.value
        y = (x - mean_c) * (lax.rsqrt(variance_c + 1e-5) * scale_c) + bias_c
        return y.astype(x_bhwc.dtype)


class Settings(NamedTuple):
    """What every block of a network shares."""

    norm: str  # of NORMS
    activation: Callable[[jax.Array], jax.Array]
    kernel_init: Callable
    dtype: Any
    train: bool


def _batch_norm(settings: Settings, features: int) -> nn.Module:
    return BatchNorm(settings.train, name="norm")


def _group_norm(settings: Settings, features: int) -> nn.Module:
    return nn.GroupNorm(
        num_groups=math.gcd(32, features),  # 32: Wu & He 2018, section 4.1
        epsilon=1e-5,
        dtype=settings.dtype,
        scale_init=declared(nn.initializers.ones, ("norm",)),
        bias_init=declared(nn.initializers.zeros, ("norm",)),
        name="norm",
    )


NORMS: dict[str, Callable[[Settings, int], Any] | None] = {
    "none": None,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
}
"""Name -> (settings, channels) -> the normalisation after a convolution; None: a bias instead."""


class ConvNorm(nn.Module):
    """Convolution, normalisation and, unless it is linear, activation.

    The convolution has a bias unless a normalisation follows that would take it away.
    """

    settings: Settings
    features: int
    size: int
    stride: int = 1
    padding: int = 0
    linear: bool = False

    @nn.compact
    def __call__(self, x_bhwc):
        s = self.settings
        kernel = self.param(
            "kernel",
            declared_kernel(s.kernel_init, (None, None, "embed", "mlp")),
            (self.size, self.size, x_bhwc.shape[-1], self.features),
        )
        x_bhwc = convolve(x_bhwc, jnp.asarray(kernel, s.dtype), self.stride, self.padding)
        # Whole features, or the partitioner's gradients are wrong: see `side_by_side`.
        x_bhwc = nn.with_logical_constraint(x_bhwc, ("batch", None, None, None))
        if normalize := NORMS[s.norm]:
            x_bhwc = normalize(s, self.features)(x_bhwc)
        else:
            zeros = declared(nn.initializers.zeros, ("mlp",))
            bias_c = self.param("bias", zeros, (self.features,))
            x_bhwc = x_bhwc + jnp.asarray(bias_c, s.dtype)
        return x_bhwc if self.linear else s.activation(x_bhwc)


class ResidualBlock(nn.Module):
    """x + F(x), then the activation (He et al. 2016, Figure 5): two 3 x 3 convolutions, or the
    bottleneck's 1 x 1, 3 x 3 and 1 x 1 to four times the features.

    A bottleneck strides in its 3 x 3 convolution (Gross & Wilber 2016, as PyTorch's models do);
    where shapes differ, x passes through a strided 1 x 1 convolution (option B).
    """

    settings: Settings
    features: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x_bhwc):
        s, width, stride = self.settings, self.features, self.stride
        out = 4 * width if self.bottleneck else width
        if self.bottleneck:
            y_bhwc = ConvNorm(s, width, 1, name="reduce")(x_bhwc)
            y_bhwc = ConvNorm(s, width, 3, stride, 1, name="conv")(y_bhwc)
            y_bhwc = ConvNorm(s, out, 1, linear=True, name="expand")(y_bhwc)
        else:
            y_bhwc = ConvNorm(s, width, 3, stride, 1, name="conv_1")(x_bhwc)
            y_bhwc = ConvNorm(s, width, 3, 1, 1, linear=True, name="conv_2")(y_bhwc)
        if stride != 1 or x_bhwc.shape[-1] != out:
            x_bhwc = ConvNorm(s, out, 1, stride, linear=True, name="shortcut")(x_bhwc)
        return s.activation(x_bhwc + y_bhwc)


class InceptionBlock(nn.Module):
    """Four paths side by side, their channels joined (Szegedy et al. 2015, Figure 2b)."""

    settings: Settings
    one: int
    reduce_three: int
    three: int
    reduce_five: int
    five: int
    pool: int

    @nn.compact
    def __call__(self, x_bhwc):
        s = self.settings
        three = ConvNorm(s, self.reduce_three, 1, name="reduce_three")(x_bhwc)
        five = ConvNorm(s, self.reduce_five, 1, name="reduce_five")(x_bhwc)
        paths = [
            ConvNorm(s, self.one, 1, name="one")(x_bhwc),
            ConvNorm(s, self.three, 3, padding=1, name="three")(three),
            ConvNorm(s, self.five, 5, padding=2, name="five")(five),
            ConvNorm(s, self.pool, 1, name="pool")(max_pool(x_bhwc, 3, 1, 1)),
        ]
        return jnp.concatenate(paths, axis=-1)
