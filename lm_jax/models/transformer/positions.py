"""Where a token stands: kinds of positions by name.

Axes: b batch, t time, s time of keys, d model width, h heads, n buckets of relative positions.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.models.transformer.attention import relative_buckets, sinusoids
from lm_jax.models.transformer.layers import added, table
from lm_jax.models.transformer.rotary import ROTARY_SCALINGS

if TYPE_CHECKING:  # the configuration takes its choices from here
    from lm_jax.models.transformer.config import BlocksConfig


class Positions(NamedTuple):
    """A kind of positions: what a stack adds before its first layer, and what else it means."""

    add: Callable[..., tuple[Any, Any]]
    """(stack, activations x_btd, `AttentionInputs`, number of keys) -> both, with positions."""

    check: Callable[["BlocksConfig"], None] = lambda config: None
    """Raises UserError for a shape that cannot have these positions."""

    rotates: bool = False  # each layer rotates queries and keys
    has_table: bool = False  # learned: no position beyond the table can be read
    biases_scores: bool = False  # added to the scores of every layer


def _learned(stack: Any, x_btd, inputs, num_keys: int):
    shape = (stack.max_positions, stack.config.d_model)
    positions_td = table(stack, "positions", shape, ("positions", "embed"))
    learned_btd = jnp.asarray(positions_td, stack.dtype)[inputs.positions_bt]
    return added(x_btd, learned_btd), inputs


def _sinusoidal(stack: Any, x_btd, inputs, num_keys: int):
    positions_btd = sinusoids(inputs.positions_bt, stack.config.d_model)
    return x_btd + positions_btd.astype(stack.dtype), inputs


def _rotary(stack: Any, x_btd, inputs, num_keys: int):
    return x_btd, inputs


def _relative(stack: Any, x_btd, inputs, num_keys: int):
    c = stack.config
    shape = (c.relative_buckets, c.num_heads)
    bias_nh = table(stack, "relative_bias", shape, ("positions", "heads"))
    buckets_ts = relative_buckets(
        inputs.start + jnp.arange(x_btd.shape[1]),
        jnp.arange(num_keys),
        c.relative_buckets,
        c.relative_distance,
        not stack.is_decoder,
    )
    return x_btd, inputs._replace(bias_hts=jnp.moveaxis(bias_nh[buckets_ts], -1, 0))


def alibi_slopes(heads: int) -> np.ndarray:
    """Returns the slope of each head, float32 [h] (Press et al. 2022, section 3).

    Heads beyond a power of two take every second slope of twice as many, as in the published code.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes_h = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between_h = 2.0 ** (-4 / power * np.arange(1, 2 * power + 1, 2))
    return np.concatenate([slopes_h, between_h])[:heads].astype(np.float32)


def _alibi(stack: Any, x_btd, inputs, num_keys: int):
    queries_t = inputs.start + jnp.arange(x_btd.shape[1])
    distance_ts = jnp.abs(jnp.arange(num_keys) - queries_t[:, None])
    slopes_h = alibi_slopes(stack.config.num_heads)
    return x_btd, inputs._replace(bias_hts=-slopes_h[:, None, None] * distance_ts)


def _check_rotary(config: "BlocksConfig") -> None:
    if config.rotary_width < 2 or config.rotary_width % 2:
        raise UserError(
            f"rotary positions turn pairs: {config.rotary_width} of the {config.head_width} "
            "features of a head turn (model.rotary_fraction); expected an even number above 0"
        )
    ROTARY_SCALINGS[config.rotary_scaling].check(config)


def _check_sinusoidal(config: "BlocksConfig") -> None:
    if config.d_model % 2:
        raise UserError(f"sinusoidal positions need an even d_model, not {config.d_model}")


POSITIONS = {
    "learned": Positions(_learned, has_table=True),
    "sinusoidal": Positions(_sinusoidal, _check_sinusoidal),
    "rotary": Positions(_rotary, _check_rotary, rotates=True),
    "relative": Positions(_relative, biases_scores=True),
    "alibi": Positions(_alibi, biases_scores=True),
}
