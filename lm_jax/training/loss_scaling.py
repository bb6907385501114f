"""Dynamic loss scaling, for gradients in float16 (Micikevicius et al. 2018, section 3.2).

The smallest normal number of float16 is 6e-5, and many gradients are below: the loss is multiplied
by a scale before it is differentiated, and the gradients are divided by it. Where they overflow the
update is skipped and the scale halved; after some time without that it is doubled.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_FIRST = 2.0**16  # PyTorch begins there, too: the first steps find what fits
_DOUBLED_AFTER = 2000  # steps whose gradients were finite
_MOST = 2.0**24


class Scaled(NamedTuple):
    """An optimizer's state, and the scale of the loss."""

    inner: Any
    scale: jax.Array  # float32
    finite: jax.Array  # int32: steps since the scale changed, all with finite gradients


def scaling(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer with the scale in its state, which `adjusted` changes."""
    extended = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Scaled:
        return Scaled(extended.init(params), jnp.float32(_FIRST), jnp.int32(0))

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Scaled]:
        updates, inner = extended.update(updates, state.inner, params, **more)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_of(opt_state: Any) -> jax.Array | None:
    """Returns the scale of the loss; None where the optimizer is not `scaling`."""
    return opt_state.scale if isinstance(opt_state, Scaled) else None


def adjusted(state: Scaled, is_finite: jax.Array) -> Scaled:
    """Returns the state with the scale after a step whose gradients were finite, or not."""
    finite = jnp.where(is_finite, state.finite + 1, 0)
    doubles = finite == _DOUBLED_AFTER
    larger = jnp.where(doubles, jnp.minimum(2 * state.scale, _MOST), state.scale)
    scale = jnp.where(is_finite, larger, jnp.maximum(state.scale / 2, 1.0))
    return state._replace(scale=scale, finite=jnp.where(doubles, 0, finite))
