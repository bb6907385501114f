"""The dense feed-forward block of a Transformer.

Axes: b batch, t time, d model width, f feed-forward width.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from lm_jax.models.target import target
from lm_jax.models.transformer.config import BlocksConfig
from lm_jax.models.transformer.layers import GATES, activate, dense, residual_stddev


def _kept_inputs(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns a function of which accelerators keep the inputs, and nothing in between."""
    return function if target() == "cpu" else jax.checkpoint(function)


class FeedForward(nn.Module):
    """Two matrix products around a non-linearity, or three in a gated unit (Shazeer 2020)."""

    config: BlocksConfig
    dtype: Any
    width: int
    transposed: bool = False  # kernels are stored transposed

    @nn.compact
    def __call__(self, x_btd):
        c = self.config

        def layer(width: int, axes: tuple[str, str], name: str, stddev: float = 0.02):
            return dense(c, self.dtype, width, axes, name, stddev, self.transposed)

        def up(name: str):
            return layer(self.width, ("embed", "mlp"), name)(x_btd)

        if c.activation in GATES:
            hidden_btf = _kept_inputs(lambda x, y: GATES[c.activation](x) * y)(up("gate"), up("up"))
        else:
            hidden_btf = _kept_inputs(lambda x: activate(c, x))(up("up"))
        hidden_btf = nn.with_logical_constraint(hidden_btf, ("batch", "time", "mlp"))
        return layer(c.d_model, ("mlp", "embed"), "down", residual_stddev(c))(hidden_btf)
