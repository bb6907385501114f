"""Attention where time is split over devices: keys and values go round, queries stay.

Axes: b batch, t time of a device's queries, s time of a device's keys, h query heads, g key/value
heads, m query heads of a key/value head, k head width.

Everything is exact: the softmax is summed up as blocks of keys arrive (Liu et al. 2023, Ring
Attention; Milakov & Gimelshein 2018, algorithm 3), and the backward pass sends the blocks round
again with their gradients, so that a device holds two blocks at a time: one that it reads, and the
one that is on its way.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm_jax.models.family import PlannedCollective
from lm_jax.models.transformer.attention import HIDDEN, Scoring, Tokens, attention_mask

KeysValues = tuple[jax.Array, jax.Array, Tokens]


def time_axis() -> str | None:
    """Returns the mesh axis over which time is split here; None where it is whole."""
    (axis,) = nn.logical_to_mesh_axes(("time",)) or (None,)
    return axis if jax.sharding.get_abstract_mesh().shape.get(axis, 1) > 1 else None


def ring_applies(*lengths: int) -> bool:
    """Returns whether time is split, and all of these lengths can be split evenly."""
    axis = time_axis()
    parts = jax.sharding.get_abstract_mesh().shape.get(axis, 1)
    return axis is not None and not any(length % parts for length in lengths)


def _ring_exchange(size: int, layers: int, parts: int) -> list[PlannedCollective]:
    # All blocks but the own arrive, twice; in the backward pass their gradients return, too.
    times = layers * (2 * (parts - 1) + parts)
    return [PlannedCollective("collective-permute", ("sequence",), size // parts, times)]


def _all_gather_exchange(size: int, layers: int, parts: int) -> list[PlannedCollective]:
    kinds = ("all-gather", "reduce-scatter")
    return [PlannedCollective(kind, ("sequence",), size, layers) for kind in kinds]


class ContextParallel(NamedTuple):
    """How attention reads keys and values whose time is split over devices."""

    uses_ring: Callable[..., bool]
    """(lengths of queries and keys) -> whether a ring serves them; else keys are gathered."""

    exchange: Callable[[int, int, int], list[PlannedCollective]]
    """(bytes of a layer's keys and values, layers, devices) -> collectives of one step."""


CONTEXT_PARALLEL = {
    "all_gather": ContextParallel(lambda *lengths: False, _all_gather_exchange),
    "ring": ContextParallel(ring_applies, _ring_exchange),
}


def _spec(*axes: str | None) -> PartitionSpec:
    return PartitionSpec(*(nn.logical_to_mesh_axes(axes) or ()))


def _specs(tensors: str) -> tuple[PartitionSpec, ...]:
    """Returns how each letter's array is split.

    Queries, Keys (or values), a Bias, Tokens, a Window, Rows of sums.
    """
    axes = {
        "q": _spec("batch", "time", "heads", None),
        "k": _spec("batch", "time", "kv_heads", None),
        "b": _spec("heads", "time", None),
        "t": _spec("batch", "time"),
        "r": _spec("batch", "heads", "time"),
        "w": PartitionSpec(),
    }
    return tuple(axes[letter] for letter in tensors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def ring_attend(
    scoring: Scoring,
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgk: jax.Array,
    bias_hts: jax.Array | None,
    queries: Tokens,
    keys: Tokens,
    window: jax.Array | int | None = None,
) -> jax.Array:
    """Attends as `attend`, with all arrays whole to the caller and split over the mesh inside.

    Args:
      bias_hts: split by queries; each device has its columns of all keys.
      queries, keys: what decides who sees whom; the mask of a block is made when it is there.
      window: as in `attention_mask`.
    """
    return _forward(scoring, q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys, window)[0]


def _forward(scoring, q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys, window):
    given = (q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys, window)
    ring = jax.shard_map(
        functools.partial(_forward_part, scoring),
        in_specs=_specs("qkkbttw"),
        out_specs=_specs("qrr"),
        check_vma=False,
    )
    y_bthk, highest_bht, total_bht = ring(*given)
    return y_bthk, (*given, y_bthk, highest_bht, total_bht)


def _backward(scoring, saved, dy_bthk):
    ring: Callable = jax.shard_map(
        functools.partial(_backward_part, scoring),
        in_specs=_specs("qkkbttwqrrq"),
        out_specs=_specs("qkkb"),
        check_vma=False,
    )
    return *ring(*saved, dy_bthk), None, None, None


ring_attend.defvjp(_forward, _backward)


def _turned(tree: Any) -> Any:
    """Returns what the neighbour before holds."""
    axis = time_axis()
    parts = jax.lax.axis_size(axis)
    pairs = [(index, (index + 1) % parts) for index in range(parts)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, pairs), tree)


def _around(visit: Callable, carry: Any, held: KeysValues) -> tuple[Any, KeysValues]:
    """Returns the carry after a visit of every block, the own one first, and the last block.

    `visit(carry, block, owner)` returns a carry; blocks are sent on while they are read.
    """
    axis = time_axis()
    parts, here = jax.lax.axis_size(axis), jax.lax.axis_index(axis)

    def step(state, turn):
        carry, held = state
        following = _turned(held)
        return (visit(carry, held, (here - turn) % parts), following), None

    (carry, held), _ = jax.lax.scan(step, (carry, held), jnp.arange(parts - 1))
    return visit(carry, held, (here + 1) % parts), held


def _scores(scoring, q_bthk, k_bsgk, bias_hts, queries: Tokens, keys: Tokens, window, owner):
    """Returns scores of a block, float32 [b, h, t, s], which count, and the slope of their cap."""
    batch, time, heads, width = q_bthk.shape
    length, groups = k_bsgk.shape[1:3]
    q_btgmk = scoring.scaled(q_bthk).reshape(batch, time, groups, -1, width)
    scores_bgmts = jnp.einsum(
        "btgmk,bsgk->bgmts", q_btgmk, k_bsgk, preferred_element_type=jnp.float32
    )
    scores_bhts = scoring.capped(scores_bgmts.reshape(batch, heads, time, length))
    cap = scoring.soft_cap
    slope_bhts = 1 - (scores_bhts / cap) ** 2 if cap else 1.0
    if bias_hts is not None:
        scores_bhts += jax.lax.dynamic_slice_in_dim(bias_hts, owner * length, length, axis=2)
    mask_bts = attention_mask(queries, keys, window)
    if mask_bts is None:
        return scores_bhts, True, slope_bhts
    return jnp.where(mask_bts[:, None], scores_bhts, HIDDEN), mask_bts[:, None], slope_bhts


def _grouped(x_bhtx: jax.Array, groups: int) -> jax.Array:
    return x_bhtx.reshape(x_bhtx.shape[0], groups, -1, *x_bhtx.shape[2:])


def _forward_part(scoring, q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys, window):
    batch, time, heads, width = q_bthk.shape
    groups = k_bsgk.shape[2]

    def visit(carry, held: KeysValues, owner):
        highest_bht, total_bht, sums_bhtk = carry
        k_bsgk, v_bsgk, keys = held
        scores_bhts, _, _ = _scores(scoring, q_bthk, k_bsgk, bias_hts, queries, keys, window, owner)
        higher_bht = jnp.maximum(highest_bht, scores_bhts.max(axis=-1))
        shrink_bht = jnp.exp(highest_bht - higher_bht)
        weights_bhts = jnp.exp(scores_bhts - higher_bht[..., None])
        new_bgmtk = jnp.einsum(
            "bgmts,bsgk->bgmtk",
            _grouped(weights_bhts.astype(v_bsgk.dtype), groups),
            v_bsgk,
            preferred_element_type=jnp.float32,
        )
        total_bht = total_bht * shrink_bht + weights_bhts.sum(axis=-1)
        sums_bhtk = sums_bhtk * shrink_bht[..., None] + new_bgmtk.reshape(sums_bhtk.shape)
        return higher_bht, total_bht, sums_bhtk

    nothing_bht = jnp.zeros((batch, heads, time), jnp.float32)
    none_bhtk = jnp.zeros((batch, heads, time, width), jnp.float32)
    carry = (nothing_bht + HIDDEN, nothing_bht, none_bhtk)
    (highest_bht, total_bht, sums_bhtk), _ = _around(visit, carry, (k_bsgk, v_bsgk, keys))
    y_bhtk = (sums_bhtk / total_bht[..., None]).astype(v_bsgk.dtype)
    return y_bhtk.swapaxes(1, 2), highest_bht, total_bht


def _backward_part(
    scoring,
    q_bthk,
    k_bsgk,
    v_bsgk,
    bias_hts,
    queries,
    keys,
    window,
    y_bthk,
    highest_bht,
    total_bht,
    dy_bthk,
):
    """Returns gradients of queries, keys, values and bias (Dao et al. 2022, algorithm 4)."""
    groups, length = k_bsgk.shape[2], k_bsgk.shape[1]
    scale = scoring.factor(q_bthk.shape[-1])
    dy_bhtk = dy_bthk.swapaxes(1, 2)
    dy_bgmtk = _grouped(dy_bhtk, groups)
    q_bgmtk = _grouped(q_bthk.swapaxes(1, 2), groups)
    product_bhtk = dy_bhtk.astype(jnp.float32) * y_bthk.swapaxes(1, 2).astype(jnp.float32)
    mean_bht1 = product_bhtk.sum(axis=-1, keepdims=True)

    def einsum(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)

    def visit(carry, held: KeysValues, owner):
        dq_bgmtk, dbias_hts, dk_bsgk, dv_bsgk = carry
        k_bsgk, v_bsgk, keys = held
        scores_bhts, counts, slope_bhts = _scores(
            scoring, q_bthk, k_bsgk, bias_hts, queries, keys, window, owner
        )
        weights_bhts = jnp.exp(scores_bhts - highest_bht[..., None]) / total_bht[..., None]
        dweights_bgmts = einsum("bgmtk,bsgk->bgmts", dy_bgmtk, v_bsgk)
        dscores_bhts = weights_bhts * (dweights_bgmts.reshape(weights_bhts.shape) - mean_bht1)
        dscores_bhts = jnp.where(counts, dscores_bhts, 0)
        weights_bgmts = _grouped(weights_bhts.astype(v_bsgk.dtype), groups)
        dproducts_bhts = dscores_bhts * slope_bhts
        dproducts_bgmts = _grouped(dproducts_bhts.astype(k_bsgk.dtype), groups)
        dv_bsgk += einsum("bgmts,bgmtk->bsgk", weights_bgmts, dy_bgmtk)
        dk_bsgk += einsum("bgmts,bgmtk->bsgk", dproducts_bgmts, q_bgmtk) * scale
        dq_bgmtk += einsum("bgmts,bsgk->bgmtk", dproducts_bgmts, k_bsgk) * scale
        if dbias_hts is not None:
            start = (0, 0, owner * length)
            dbias_hts = jax.lax.dynamic_update_slice(dbias_hts, dscores_bhts.sum(axis=0), start)
        # The gradients of a block go round with it, and come home with the last turn.
        return dq_bgmtk, dbias_hts, *_turned((dk_bsgk, dv_bsgk))

    def zeros(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else jnp.zeros(x.shape, jnp.float32)

    carry = tuple(map(zeros, (q_bgmtk, bias_hts, k_bsgk, v_bsgk)))
    (dq_bgmtk, dbias_hts, dk_bsgk, dv_bsgk), _ = _around(visit, carry, (k_bsgk, v_bsgk, keys))
    dq_bthk = dq_bgmtk.reshape(dy_bhtk.shape).swapaxes(1, 2)
    if bias_hts is not None:
        (rows,) = _spec("batch")
        dbias_hts = jax.lax.psum(dbias_hts, rows).astype(bias_hts.dtype)
    return (
        dq_bthk.astype(q_bthk.dtype),
        dk_bsgk.astype(k_bsgk.dtype),
        dv_bsgk.astype(v_bsgk.dtype),
        dbias_hts,
    )
