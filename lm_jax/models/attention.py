"""Scaled dot-product attention with grouped-query heads, packed documents and a cache.

Axes: b batch, t query time, s key time, h query heads, g key/value heads, k head width.
"""

import jax
import jax.numpy as jnp


def rotate(x_bthk: jax.Array, positions_bt: jax.Array, base: float) -> jax.Array:
    """x_bthk with each pair (i, i + k/2) turned by position / base^(2i/k), float32 inside.

    Rotary embedding (Su et al. 2021, eq. 34) in the half-split layout of GPT-NeoX and Llama.
    """
    half = x_bthk.shape[-1] // 2
    frequencies_k = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_btk = positions_bt[..., None].astype(jnp.float32) * frequencies_k
    cos, sin = jnp.cos(angles_btk)[:, :, None, :], jnp.sin(angles_btk)[:, :, None, :]
    left, right = jnp.split(x_bthk.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return turned.astype(x_bthk.dtype)


def sinusoids(positions_bt: jax.Array, width: int) -> jax.Array:
    """Sinusoidal position embeddings [b, t, width] (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    rates_d = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_btd = positions_bt[..., None].astype(jnp.float32) * rates_d
    return jnp.concatenate([jnp.sin(angles_btd), jnp.cos(angles_btd)], axis=-1)


def visible(queries_bt: jax.Array, keys_bs: jax.Array, segments: tuple | None) -> jax.Array:
    """Which key each query may read, bool [b, t, s]: none later than itself, none across documents.

    Args:
      queries_bt, keys_bs: indices of time, not positions inside a document.
      segments: (query segments [b, t], key segments [b, s]), or None for one document a row.
    """
    mask_bts = keys_bs[:, None, :] <= queries_bt[:, :, None]
    if segments is not None:
        query_segments_bt, key_segments_bs = segments
        mask_bts &= query_segments_bt[:, :, None] == key_segments_bs[:, None, :]
    return mask_bts


def attend(
    q_bthk: jax.Array, k_bsgk: jax.Array, v_bsgk: jax.Array, mask_bts: jax.Array
) -> jax.Array:
    """softmax(q k^T / sqrt(k)) v under a mask, [b, t, h, k] (Vaswani et al. 2017, eq. 1).

    Query head i reads key/value head i // (h / g) (grouped-query attention, Ainslie et al. 2023).
    Scores and softmax are float32. Where queries and keys are the same tokens, the mask must be
    causal: the first half of the queries then never touches the second half of the keys.
    """
    batch, time, heads, width = q_bthk.shape
    keys, groups = k_bsgk.shape[1:3]
    # Plain [rows, k] matrices, a batch of them: what XLA multiplies fastest on a CPU.
    q_nrtk = q_bthk.transpose(0, 2, 1, 3).reshape(batch * groups, heads // groups, time, width)
    k_nks = k_bsgk.transpose(0, 2, 3, 1).reshape(batch * groups, width, keys)
    v_nsk = v_bsgk.transpose(0, 2, 1, 3).reshape(batch * groups, keys, width)

    def attend_rows(first: int, last: int, visible: int) -> jax.Array:
        rows_nrk = q_nrtk[:, :, first:last].reshape(batch * groups, -1, width)
        scores_nrs = jnp.matmul(
            rows_nrk * width**-0.5, k_nks[:, :, :visible], preferred_element_type=jnp.float32
        )
        scores_bhts = scores_nrs.reshape(batch, heads, last - first, visible)
        mask_b1ts = mask_bts[:, None, first:last, :visible]
        scores_bhts = jnp.where(mask_b1ts, scores_bhts, -1e30)
        highest = jax.lax.stop_gradient(scores_bhts.max(axis=-1, keepdims=True))
        weights_bhts = jnp.exp(scores_bhts - highest)
        weights_nrs = weights_bhts.astype(v_nsk.dtype).reshape(batch * groups, -1, visible)
        sums_nrk = jnp.matmul(weights_nrs, v_nsk[:, :visible], preferred_element_type=jnp.float32)
        # Normalised last: a division of [t, k] rather than [t, s], forward and backward.
        y_bhtk = sums_nrk.reshape(batch, heads, last - first, width)
        return (y_bhtk / weights_bhts.sum(axis=-1, keepdims=True)).astype(v_nsk.dtype)

    if time == keys and time >= 128:
        half = time // 2
        parts = [attend_rows(0, half, half), attend_rows(half, time, time)]
        y_bhtk = jnp.concatenate(parts, axis=2)
    else:
        y_bhtk = attend_rows(0, time, keys)
    return y_bhtk.transpose(0, 2, 1, 3)
