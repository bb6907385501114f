"""Norms for GPUs: one kernel forward, two backward, and only their input is kept.

Axes: n tokens (one axis or several), d width.
"""

from functools import partial

import jax
import jax.numpy as jnp


def layer_norm(
    x_nd: jax.Array, scale_d: jax.Array, bias_d: jax.Array | None, epsilon: float
) -> jax.Array:
    """Returns the layer norm of x_nd (Ba et al. 2016, eq. 4), with sums in float32."""
    return _norm(x_nd, scale_d, bias_d, epsilon, True)


def rms_norm(x_nd: jax.Array, scale_d: jax.Array, epsilon: float) -> jax.Array:
    """Returns the norm of x_nd by the root of its mean square (Zhang and Sennrich 2019, eq. 4)."""
    return _norm(x_nd, scale_d, None, epsilon, False)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x_nd, scale_d, bias_d, epsilon, centers):
    """Norms x_nd, centered first or not.

    The variance is the mean of squares of what is centered already. XLA for GPUs makes a single
    kernel of that; the mean of squares less the square of the mean takes it a pass more. So does
    autodiff, whose backward pass reads the mean and the variance of each row.
    """
    centered_nd = x_nd.astype(jnp.float32)
    if centers:
        centered_nd -= jnp.mean(centered_nd, axis=-1, keepdims=True)
    variance_n = jnp.mean(jnp.square(centered_nd), axis=-1, keepdims=True)
    y_nd = centered_nd * jax.lax.rsqrt(variance_n + epsilon) * scale_d
    return (y_nd if bias_d is None else y_nd + bias_d).astype(x_nd.dtype)


def _forward(x_nd, scale_d, bias_d, epsilon, centers):
    return _norm(x_nd, scale_d, bias_d, epsilon, centers), (x_nd, scale_d, bias_d)


def _backward(epsilon, centers, kept, dy_nd):
    """Takes all sums of rows in one pass; makes dx_nd and takes sums of columns in another."""
    kept_nd, scale_d, bias_d = kept
    # Or XLA would take the mean from the forward pass, and write it there.
    x_nd = jax.lax.optimization_barrier(kept_nd).astype(jnp.float32)
    dy_nd = dy_nd.astype(jnp.float32)
    mean = partial(jnp.mean, axis=-1, keepdims=True)
    slope_nd = dy_nd * scale_d
    mean_n, slope_n = (mean(x_nd), mean(slope_nd)) if centers else (0.0, 0.0)
    square_n, product_n = mean(jnp.square(x_nd)), mean(slope_nd * x_nd)
    rate_n = jax.lax.rsqrt(jnp.maximum(square_n - jnp.square(mean_n), 0) + epsilon)
    normal_nd = (x_nd - mean_n) * rate_n
    along_n = (product_n - slope_n * mean_n) * rate_n
    dx_nd = rate_n * (slope_nd - slope_n - normal_nd * along_n)
    total = partial(jnp.sum, axis=tuple(range(dy_nd.ndim - 1)))
    dbias_d = None if bias_d is None else total(dy_nd)
    return dx_nd.astype(kept_nd.dtype), total(dy_nd * normal_nd), dbias_d


_norm.defvjp(_forward, _backward)
