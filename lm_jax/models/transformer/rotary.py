"""Rotary embeddings (Su et al. 2021), and how they are stretched to longer contexts, by name.

Feature i of a head turns with feature i + r/2, where r features are rotated: the half-split layout
of GPT-NeoX and Llama. Weights of the interleaved layout (i with i + 1) are permuted on import.

Axes: b batch, t time, h heads, k head width, i pairs of features.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.errors import UserError

if TYPE_CHECKING:  # the configuration takes its choices from here
    from lm_jax.models.transformer.config import BlocksConfig, LayerKind


class Rotation(NamedTuple):
    """How a layer rotates queries and keys."""

    frequencies_i: jax.Array  # radians per token, of each pair
    factor: Any = 1.0  # on what is rotated


def frequencies(width: int, base: float) -> jax.Array:
    """Returns base^(-2i/width) of each pair, float32 [width / 2] (Su et al. 2021, eq. 15)."""
    half = width // 2
    return base ** (-jnp.arange(half, dtype=jnp.float32) / half)


def rotate(x_bthk: jax.Array, positions_bt: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotates pairs of features by position x frequency, float32 inside; others stay as they are.

    Su et al. 2021, eq. 34.
    """
    frequencies_i, factor = rotation
    angles_bti = positions_bt[..., None].astype(jnp.float32) * frequencies_i
    cos, sin = (factor * f(angles_bti)[:, :, None, :] for f in (jnp.cos, jnp.sin))
    width = 2 * frequencies_i.shape[0]
    left, right = jnp.split(x_bthk[..., :width].astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    turned = turned.astype(x_bthk.dtype)
    if width == x_bthk.shape[-1]:
        return turned
    return jnp.concatenate([turned, x_bthk[..., width:]], axis=-1)


def _linear(config: "BlocksConfig", frequencies_i: jax.Array) -> Rotation:
    """Returns positions divided by the factor (Chen et al. 2023)."""
    return Rotation(frequencies_i / config.rotary_factor)


def _llama3(config: "BlocksConfig", frequencies_i: jax.Array) -> Rotation:
    """Returns the rotation of Llama 3.1: slow pairs are slower by the factor, fast ones stay."""
    turns_i = config.rotary_original_length * frequencies_i / (2 * math.pi)
    low, high = config.rotary_low_factor, config.rotary_high_factor
    kept_i = jnp.clip((turns_i - low) / (high - low), 0, 1)
    return Rotation(frequencies_i * (kept_i + (1 - kept_i) / config.rotary_factor))


def _yarn(config: "BlocksConfig", frequencies_i: jax.Array) -> Rotation:
    """Returns the rotation of YaRN (Peng et al. 2023, section 3.2), which scales attention, too.

    As in its published code, the ends of the ramp are whole pairs.
    """
    width, length = config.rotary_width, config.rotary_original_length

    def pair(turns: float) -> float:
        """Returns which pair turns so often in the original length."""
        log_base = math.log(config.rotary_base)
        return width * math.log(length / (turns * 2 * math.pi)) / (2 * log_base)

    first = max(math.floor(pair(config.rotary_beta_fast)), 0)
    last = min(math.ceil(pair(config.rotary_beta_slow)), width - 1)
    pairs_i = jnp.arange(width // 2, dtype=jnp.float32)
    divided_i = jnp.clip((pairs_i - first) / max(last - first, 0.001), 0, 1)
    frequencies_i = frequencies_i * (1 - divided_i + divided_i / config.rotary_factor)
    default = 0.1 * math.log(config.rotary_factor) + 1
    return Rotation(frequencies_i, config.rotary_attention_factor or default)


def _needs_length(config: "BlocksConfig") -> None:
    if not config.rotary_original_length:
        raise UserError(
            f"model.rotary_scaling {config.rotary_scaling} needs model.rotary_original_length: the "
            "context, in tokens, that the model was trained with before it was stretched"
        )


def _check_llama3(config: "BlocksConfig") -> None:
    _needs_length(config)
    if config.rotary_low_factor >= config.rotary_high_factor:
        raise UserError(
            f"model.rotary_low_factor is {config.rotary_low_factor}; expected less than "
            f"model.rotary_high_factor {config.rotary_high_factor}"
        )


def _check_yarn(config: "BlocksConfig") -> None:
    _needs_length(config)
    if config.rotary_beta_slow >= config.rotary_beta_fast:
        raise UserError(
            f"model.rotary_beta_slow is {config.rotary_beta_slow}; expected less than "
            f"model.rotary_beta_fast {config.rotary_beta_fast}"
        )
    if config.rotary_base <= 1:
        raise UserError(f"model.rotary_base is {config.rotary_base}; yarn expects more than 1")


class RotaryScaling(NamedTuple):
    """A way to read longer texts than rotary embeddings were trained with."""

    rotation: Callable[["BlocksConfig", jax.Array], Rotation]
    """(configuration, frequencies of its base) -> what the layers do."""

    check: Callable[["BlocksConfig"], None] = lambda config: None
    """Raises UserError for numbers that do not fit."""


ROTARY_SCALINGS = {
    "none": RotaryScaling(lambda config, frequencies_i: Rotation(frequencies_i)),
    "linear": RotaryScaling(_linear),
    "llama3": RotaryScaling(_llama3, _check_llama3),
    "yarn": RotaryScaling(_yarn, _check_yarn),
}


def rotation_of(config: "BlocksConfig", kind: "LayerKind | None" = None) -> Rotation:
    """Returns the rotation of a layer.

    With `rotary_local_base` layers that have the sliding window have that base, and no scaling.

    Args:
      kind: of the layer; None where all layers are alike.
    """
    rotation = _rotation(config, kind)
    if not config.unrotated_every or kind is None:
        return rotation
    still = Rotation(jnp.zeros_like(rotation.frequencies_i))
    return Rotation(*(jnp.where(kind.rotated, x, y) for x, y in zip(rotation, still, strict=True)))


def _rotation(config: "BlocksConfig", kind: "LayerKind | None") -> Rotation:
    width = config.rotary_width
    usual_i = frequencies(width, config.rotary_base)
    usual = ROTARY_SCALINGS[config.rotary_scaling].rotation(config, usual_i)
    if not (config.sliding_window and config.rotary_local_base):
        return usual
    local = Rotation(frequencies(width, config.rotary_local_base))
    if not config.mixes_windows or kind is None:
        return local
    return Rotation(*(jnp.where(kind.windowed, x, y) for x, y in zip(local, usual, strict=True)))
