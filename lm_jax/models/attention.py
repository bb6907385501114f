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
    Scores and softmax are float32.
    """
    batch, time, num_heads, width = q_bthk.shape
    num_kv_heads = k_bsgk.shape[2]
    q_btgrk = q_bthk.reshape(batch, time, num_kv_heads, num_heads // num_kv_heads, width)
    scores_bgrts = jnp.einsum(
        "btgrk,bsgk->bgrts", q_btgrk, k_bsgk, preferred_element_type=jnp.float32
    )
    scores_bgrts = jnp.where(mask_bts[:, None, None], scores_bgrts * width**-0.5, -1e30)
    weights_bgrts = jax.nn.softmax(scores_bgrts, axis=-1).astype(v_bsgk.dtype)
    return jnp.einsum("bgrts,bsgk->btgrk", weights_bgrts, v_bsgk).reshape(q_bthk.shape)
