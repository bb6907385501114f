"""Which updates are left out: those that are not finite, or far above what is usual."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_REMEMBERED = 128  # updates
_ENOUGH = 16  # fewer do not tell what is usual


class Remembered(NamedTuple):
    """An optimizer's state, and the loss and the gradient's norm of the last updates it made."""

    inner: Any
    losses: jax.Array  # float32 [N], the last one at the end; NaN before the first
    norms: jax.Array  # float32 [N]


def remembering(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer, which also remembers `loss` and `norm` of each update."""
    extended = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Remembered:
        none = jnp.full(_REMEMBERED, jnp.nan, jnp.float32)
        return Remembered(extended.init(params), none, none)

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        loss: jax.Array,
        norm: jax.Array,
        **more: Any,
    ) -> tuple[Any, Remembered]:
        updates, inner = extended.update(updates, state.inner, params, **more)
        pairs = (state.losses, loss), (state.norms, norm)
        last = (jnp.append(values[1:], new.astype(jnp.float32)) for values, new in pairs)
        return updates, Remembered(inner, *last)

    return optax.GradientTransformationExtraArgs(init, update)


def is_skipped(loss: jax.Array, norm: jax.Array, opt_state: Any, above: float) -> jax.Array:
    """Returns whether an update is left out, a bool.

    It is where the trained loss or the gradient's norm is not finite. With `above`, and a state
    that `remembering` made, it is also where either is more than `above` times its median over the
    last updates that were made, once there are enough of them.
    """
    is_bad = ~(jnp.isfinite(loss) & jnp.isfinite(norm))
    if not above:
        return is_bad
    for value, last in ((loss, opt_state.losses), (norm, opt_state.norms)):
        is_known = jnp.sum(~jnp.isnan(last)) >= _ENOUGH
        is_bad |= is_known & (value > above * jnp.nanmedian(last))
    return is_bad
