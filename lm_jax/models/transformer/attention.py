"""Scaled dot-product attention: who sees whom, where tokens stand, and the products.

Axes: b batch, t query time, s key time, h query heads, g key/value heads, k head width.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HIDDEN = -1e30  # the score of what may not be seen


class Scoring(NamedTuple):
    """How products of queries and keys become scores."""

    scale: float = 0.0  # 0: 1 / sqrt(k)
    soft_cap: float = 0.0  # 0: off

    def scaled(self, q_bthk: jax.Array) -> jax.Array:
        """Returns queries times the factor on their products."""
        return q_bthk * self.factor(q_bthk.shape[-1])

    def factor(self, width: int) -> float:
        """Returns the factor on products of heads of this width."""
        return self.scale or width**-0.5

    def capped(self, scores: jax.Array) -> jax.Array:
        """Returns cap * tanh(scores / cap) (Gemma 2, Riviere et al. 2024, section 2)."""
        return self.soft_cap * jnp.tanh(scores / self.soft_cap) if self.soft_cap else scores


PLAIN = Scoring()


class Tokens(NamedTuple):
    """What decides who sees whom, int32 [b, t] each."""

    index_bt: jax.Array | None = None  # of time; None: later tokens are seen, too
    segments_bt: jax.Array | None = None  # None: all are of one
    prefix_bt: jax.Array | None = None  # 1 on the keys that are read from both sides
    place_bt: jax.Array | None = None  # index of time, where a window limits the distance


def sinusoids(positions_bt: jax.Array, width: int) -> jax.Array:
    """Returns sinusoidal position embeddings [b, t, width] (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    rates_d = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_btd = positions_bt[..., None].astype(jnp.float32) * rates_d
    return jnp.concatenate([jnp.sin(angles_btd), jnp.cos(angles_btd)], axis=-1)


def visible(
    queries_bt: jax.Array, keys_bs: jax.Array, prefix_bs: jax.Array | None = None
) -> jax.Array:
    """Returns which key each query may read, bool [b, t, s]: none later, but for a prefix.

    Args:
      queries_bt, keys_bs: indices of time, not positions inside a document.
      prefix_bs: 1 on the keys that are read from both sides (Raffel et al. 2020, section 3.2.1).
    """
    mask_bts = keys_bs[:, None, :] <= queries_bt[:, :, None]
    return mask_bts if prefix_bs is None else mask_bts | (prefix_bs[:, None, :] > 0)


def same_segment(queries_bt: jax.Array, keys_bs: jax.Array) -> jax.Array:
    """Returns which key is of the query's segment, bool [b, t, s]."""
    return queries_bt[:, :, None] == keys_bs[:, None, :]


def attention_mask(
    queries: Tokens, keys: Tokens, window: jax.Array | int | None = None
) -> jax.Array | None:
    """Returns which key each query may read, bool [b, t, s]; None: all.

    Args:
      window: no key is read at this distance or further; None: at any.
    """
    mask_bts = None
    if queries.index_bt is not None and keys.index_bt is not None:
        mask_bts = visible(queries.index_bt, keys.index_bt, keys.prefix_bt)
    if queries.segments_bt is not None and keys.segments_bt is not None:
        same_bts = same_segment(queries.segments_bt, keys.segments_bt)
        mask_bts = same_bts if mask_bts is None else mask_bts & same_bts
    if queries.place_bt is None or keys.place_bt is None:
        return mask_bts
    return near(mask_bts, distances(queries.place_bt, keys.place_bt), window)


def distances(queries_bt: jax.Array, keys_bs: jax.Array) -> jax.Array:
    """Returns how far each key is from each query, int32 [b, t, s]."""
    return jnp.abs(keys_bs[:, None, :] - queries_bt[:, :, None])


def near(
    mask_bts: jax.Array | None, distance_bts: jax.Array | None, window: jax.Array | int | None
) -> jax.Array | None:
    """Returns a mask, None where it hides nothing, without the keys beyond a window."""
    if distance_bts is None or window is None:
        return mask_bts
    near_bts = distance_bts < window
    return near_bts if mask_bts is None else mask_bts & near_bts


def relative_buckets(
    queries_t: jax.Array, keys_s: jax.Array, count: int, furthest: int, both_sides: bool
) -> jax.Array:
    """Returns the bucket of each query's distance to each key, int32 [t, s] (Raffel et al. 2020).

    Half of the buckets are a distance each, the others grow as its logarithm up to `furthest`, and
    the last holds all beyond. With `both_sides` later keys have a half of the buckets for
    themselves; else they share the bucket of distance 0.
    """
    offset_ts = keys_s[None, :] - queries_t[:, None]
    of_a_side = count // 2 if both_sides else count
    single = of_a_side // 2
    distances = np.maximum(np.arange(furthest + 1, dtype=np.float32), 1)
    ratio = np.log(distances / np.float32(single)) / np.float32(math.log(furthest / single))
    spread = single + (ratio * (of_a_side - single)).astype(np.int32)
    buckets = np.where(distances < single, np.arange(furthest + 1), spread)
    table = jnp.asarray(np.minimum(buckets, of_a_side - 1), jnp.int32)
    if not both_sides:
        return table[jnp.clip(-offset_ts, 0, furthest)]
    return table[jnp.clip(jnp.abs(offset_ts), 0, furthest)] + of_a_side * (offset_ts > 0)


def attention_weights(
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    mask_bts: jax.Array | None = None,
    bias_hts: jax.Array | None = None,
    scoring: Scoring = PLAIN,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(k) + bias) under a mask, float32 [b, h, t, s], to look at."""
    k_bshk = jnp.repeat(k_bsgk, q_bthk.shape[2] // k_bsgk.shape[2], axis=2)
    scores_bhts = jnp.einsum(
        "bthk,bshk->bhts",
        scoring.scaled(q_bthk),
        k_bshk,
        preferred_element_type=jnp.float32,
    )
    return jax.nn.softmax(_masked(scores_bhts, mask_bts, bias_hts, scoring), axis=-1)


def _masked(
    scores_bhts: jax.Array,
    mask_bts: jax.Array | None,
    bias_hts: jax.Array | None,
    scoring: Scoring,
) -> jax.Array:
    scores_bhts = scoring.capped(scores_bhts)
    if bias_hts is not None:
        scores_bhts = scores_bhts + bias_hts
    return scores_bhts if mask_bts is None else jnp.where(mask_bts[:, None], scores_bhts, HIDDEN)


def attend_cache(
    q_bthk: jax.Array,
    k_bgsk: jax.Array,
    v_bgsk: jax.Array,
    mask_bts: jax.Array | None,
    bias_hts: jax.Array | None = None,
    scoring: Scoring = PLAIN,
) -> jax.Array:
    """Attends as `attend`, from a few queries to a cache whose heads stand before its tokens.

    The cache is read where it lies: `attend` would transpose all of it for every new token.
    """
    batch, time, heads, width = q_bthk.shape
    groups, keys = k_bgsk.shape[1:3]
    q_bgnk = scoring.scaled(q_bthk).transpose(0, 2, 1, 3).reshape(batch, groups, -1, width)
    scores_bgns = jnp.einsum("bgnk,bgsk->bgns", q_bgnk, k_bgsk, preferred_element_type=jnp.float32)
    scores_bhts = scores_bgns.reshape(batch, heads, time, keys)
    scores_bhts = _masked(scores_bhts, mask_bts, bias_hts, scoring)
    weights_bhts = jax.nn.softmax(scores_bhts, axis=-1).astype(v_bgsk.dtype)
    weights_bgns = weights_bhts.reshape(batch, groups, -1, keys)
    y_bgnk = jnp.einsum("bgns,bgsk->bgnk", weights_bgns, v_bgsk)
    return y_bgnk.reshape(batch, heads, time, width).transpose(0, 2, 1, 3)


def attend(
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgk: jax.Array,
    mask_bts: jax.Array | None = None,
    bias_hts: jax.Array | None = None,
    scoring: Scoring = PLAIN,
    *,
    causal: bool = False,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(k) + bias) v, masked, [b, t, h, k] (Vaswani et al. 2017, eq. 1).

    Query head i reads key/value head i // (h / g) (grouped-query attention, Ainslie et al. 2023).
    Scores and softmax are float32. `causal` promises that queries and keys are the same tokens and
    that the mask lets none see a later one: the first half of the queries then never touches the
    second half of the keys.
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
            scoring.scaled(rows_nrk), k_nks[:, :, :visible], preferred_element_type=jnp.float32
        )
        scores_bhts = scores_nrs.reshape(batch, heads, last - first, visible)
        mask = None if mask_bts is None else mask_bts[:, first:last, :visible]
        bias = None if bias_hts is None else bias_hts[:, first:last, :visible]
        scores_bhts = _masked(scores_bhts, mask, bias, scoring)
        highest = jax.lax.stop_gradient(scores_bhts.max(axis=-1, keepdims=True))
        weights_bhts = jnp.exp(scores_bhts - highest)
        weights_nrs = weights_bhts.astype(v_nsk.dtype).reshape(batch * groups, -1, visible)
        sums_nrk = jnp.matmul(weights_nrs, v_nsk[:, :visible], preferred_element_type=jnp.float32)
        # Normalised last: a division of [t, k] rather than [t, s], forward and backward.
        y_bhtk = sums_nrk.reshape(batch, heads, last - first, width)
        return (y_bhtk / weights_bhts.sum(axis=-1, keepdims=True)).astype(v_nsk.dtype)

    if causal and time >= 128:
        half = time // 2
        parts = [attend_rows(0, half, half), attend_rows(half, time, time)]
        y_bhtk = jnp.concatenate(parts, axis=2)
    else:
        y_bhtk = attend_rows(0, time, keys)
    return y_bhtk.transpose(0, 2, 1, 3)
