"""Attention by blocks of queries and keys, for CPUs: no array grows with the square of the time.

Axes: b batch, t time of queries, s time of keys, h query heads, g key/value heads, m query heads of
a key/value head, k head width, n rows of m and t.

The softmax is summed up as blocks of keys are read (Milakov & Gimelshein 2018, algorithm 3), and
the backward pass computes the scores again (Dao et al. 2022, algorithm 4). Pairs of blocks of which
no query may read a key are left out. Blocks are small enough for a core's cache, which is why the
rows of a batch are computed one after another.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.models.transformer.attention import HIDDEN, PLAIN, Scoring, Tokens, attention_mask

_OUTSIDE = -1  # the segment of what is added to fill a block
_MOST_BLOCKS = 1024  # of a context; the pairs of blocks are listed when a program is traced
_LATE = 2**30  # its time: later than all tokens


class Blocking(NamedTuple):
    """What is known of an attention before it runs."""

    scoring: Scoring = PLAIN
    causal: bool = False  # queries and keys are the same tokens, and none reads a later one
    window: int | None = None  # no key is read at this distance or further
    size: int = 128  # tokens of a block


def block_size(length: int) -> int:
    """Returns the tokens of a block for a context: 128, or more where a list of pairs gets long."""
    return 128 * max(1, -(-length // (128 * _MOST_BLOCKS)))


class _Operands(NamedTuple):
    """Some rows, padded to whole blocks."""

    q_bgmtk: jax.Array  # scaled
    k_bgsk: jax.Array
    v_bgsk: jax.Array
    queries: Tokens
    keys: Tokens


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def blockwise_attend(
    blocking: Blocking,
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgk: jax.Array,
    bias_hts: jax.Array | None,
    queries: Tokens,
    keys: Tokens,
) -> jax.Array:
    """Attends as `attend` and returns [b, t, h, k]; sums are float32, or float64 of float64.

    Args:
      queries, keys: what decides who sees whom, [b, t] and [b, s]; masks are made block by block.
    """
    return _forward(blocking, q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys)[0]


def _forward(blocking: Blocking, q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys):
    given = (q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys)
    operands, bias_gmts = _operands(blocking, *given)
    _, found = _over_rows(
        lambda _, rows: (None, _forward_rows(blocking, rows, bias_gmts)), None, operands
    )
    y_bthk = _as_given(found[0], q_bthk.shape).astype(v_bsgk.dtype)
    return y_bthk, (*given, *found)


def _backward(blocking: Blocking, saved, dy_bthk):
    *given, y_bgmtk, highest_bgmt1, total_bgmt1 = saved
    q_bthk, k_bsgk, v_bsgk, bias_hts, _, _ = given
    operands, bias_gmts = _operands(blocking, *given)
    dy_bgmtk = _padded(_grouped(dy_bthk, k_bsgk.shape[2]), 3, blocking.size)
    dbias_gmts = None if bias_gmts is None else jnp.zeros(bias_gmts.shape, y_bgmtk.dtype)
    dbias_gmts, found = _over_rows(
        lambda dbias_gmts, rows: _backward_rows(blocking, bias_gmts, dbias_gmts, *rows),
        dbias_gmts,
        (operands, dy_bgmtk, y_bgmtk, highest_bgmt1, total_bgmt1),
    )
    dq_bgmtk, dk_bgks, dv_bgks = found
    dq_bthk = _as_given(dq_bgmtk, q_bthk.shape) * blocking.scoring.factor(q_bthk.shape[-1])
    length = k_bsgk.shape[1]
    dk_bsgk, dv_bsgk = (x[..., :length].transpose(0, 3, 1, 2) for x in (dk_bgks, dv_bgks))
    dbias_hts = None
    if bias_hts is not None:
        heads, time, _ = bias_hts.shape
        dbias_hts = dbias_gmts[:, :, :time, :length].reshape(heads, time, length)
        dbias_hts = dbias_hts.astype(bias_hts.dtype)
    return (
        dq_bthk.astype(q_bthk.dtype),
        dk_bsgk.astype(k_bsgk.dtype),
        dv_bsgk.astype(v_bsgk.dtype),
        dbias_hts,
        None,
        None,
    )


blockwise_attend.defvjp(_forward, _backward)


def _grouped(x_bthk: jax.Array, groups: int) -> jax.Array:
    batch, time, heads, width = x_bthk.shape
    return x_bthk.transpose(0, 2, 1, 3).reshape(batch, groups, heads // groups, time, width)


def _as_given(x_bgmtk: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the rows without padding, of a shape [b, t, h, k]."""
    batch, time, heads, width = shape
    x_bhtk = x_bgmtk[..., :time, :].reshape(batch, heads, time, width)
    return x_bhtk.transpose(0, 2, 1, 3)


def _padded(x: jax.Array, axis: int, size: int, value: int = 0) -> jax.Array:
    missing = -x.shape[axis] % size
    if not missing:
        return x
    widths = [(0, missing if at == axis else 0) for at in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=value)


def _padded_tokens(tokens: Tokens, size: int) -> Tokens:
    def padded(x_bt: jax.Array | None, value: int) -> jax.Array | None:
        return None if x_bt is None else _padded(x_bt, 1, size, value)

    return Tokens(
        index_bt=padded(tokens.index_bt, _LATE),
        segments_bt=padded(tokens.segments_bt, _OUTSIDE),
        prefix_bt=padded(tokens.prefix_bt, 0),
        place_bt=padded(tokens.place_bt, _LATE),
    )


def _operands(blocking: Blocking, q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys):
    """Returns what the loops read, and the bias [g, m, t, s] if there is one."""
    size, groups = blocking.size, k_bsgk.shape[2]
    if k_bsgk.shape[1] % size and keys.segments_bt is None and not blocking.causal:
        # A segment of its own hides what is added; a causal mask does so anyway.
        queries = queries._replace(segments_bt=jnp.zeros(q_bthk.shape[:2], jnp.int32))
        keys = keys._replace(segments_bt=jnp.zeros(k_bsgk.shape[:2], jnp.int32))
    queries, keys = _padded_tokens(queries, size), _padded_tokens(keys, size)
    k_bgsk, v_bgsk = (_padded(x.transpose(0, 2, 1, 3), 2, size) for x in (k_bsgk, v_bsgk))
    q_bgmtk = _padded(_grouped(blocking.scoring.scaled(q_bthk), groups), 3, size)
    bias_gmts = None
    if bias_hts is not None:
        bias_gmts = bias_hts.reshape(groups, -1, *bias_hts.shape[1:])
        bias_gmts = _padded(_padded(bias_gmts, 2, size), 3, size)
    return _Operands(q_bgmtk, k_bgsk, v_bgsk, queries, keys), bias_gmts


def _over_rows(function: Callable, carry: Any, rows: Any) -> tuple[Any, Any]:
    """Returns (carry, results) of `function(carry, rows)`, called for one row after another.

    On a mesh, which may split the rows, it is called once for all.
    """
    if jax.sharding.get_abstract_mesh().size > 1:
        return function(carry, rows)
    single = jax.tree.map(lambda x: x[:, None], rows)
    carry, found = jax.lax.scan(function, carry, single)
    return carry, jax.tree.map(lambda x: x[:, 0], found)


def pairs_of_blocks(
    blocking: Blocking, num_queries: int, num_keys: int, hides: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first query and key of each pair of blocks, int32 [p, 2]: partly and all visible.

    Pairs whose keys are all hidden are in neither.

    Args:
      num_queries, num_keys: multiples of the size of a block.
      hides: there are masks beside a causal one and a window, so no pair is known to be visible.
    """
    last = blocking.size - 1
    partly: list[tuple[int, int]] = []
    wholly: list[tuple[int, int]] = []
    for query in range(0, num_queries, blocking.size):
        for key in range(0, num_keys, blocking.size):
            if blocking.causal and key > query:
                continue
            nearest = max(abs(query - key) - last, 0)
            furthest = abs(query - key) + last
            if blocking.window is not None and nearest >= blocking.window:
                continue
            on_diagonal = blocking.causal and key == query
            cut = blocking.window is not None and furthest >= blocking.window
            (partly if hides or on_diagonal or cut else wholly).append((query, key))
    masked, unmasked = (np.array(pairs, np.int32).reshape(-1, 2) for pairs in (partly, wholly))
    return masked, unmasked


def _over_pairs(blocking: Blocking, rows: _Operands, visit: Callable, carry: Any) -> Any:
    """Returns the carry after `visit(carry, query, key, masked)` of all pairs of blocks."""
    queries = rows.queries
    hides = queries.segments_bt is not None
    hides |= queries.index_bt is not None and not blocking.causal
    sizes = (rows.q_bgmtk.shape[3], rows.k_bgsk.shape[2])
    for pairs, masked in zip(pairs_of_blocks(blocking, *sizes, hides), (True, False), strict=True):
        if len(pairs):
            step = lambda carry, pair, masked=masked: (visit(carry, *pair, masked), None)  # noqa: E731
            carry, _ = jax.lax.scan(step, carry, jnp.asarray(pairs))
    return carry


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, preferred_element_type=jnp.result_type(x, jnp.float32))


def _added(x: jax.Array, block: jax.Array, start: jax.Array, axis: int) -> jax.Array:
    old = jax.lax.dynamic_slice_in_dim(x, start, block.shape[axis], axis)
    return jax.lax.dynamic_update_slice_in_dim(x, old + block, start, axis)


class _Pair(NamedTuple):
    """A block of queries and one of keys."""

    q_bgnk: jax.Array
    k_bgsk: jax.Array
    v_bgsk: jax.Array
    queries: Tokens
    keys: Tokens
    bias_gmts: jax.Array | None


def _cut(x: jax.Array, start: jax.Array, size: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)


def _flat(x_bgmtk: jax.Array) -> jax.Array:
    """Returns [b, g, n, k]: query heads of a key/value head share its product."""
    batch, groups, _, _, width = x_bgmtk.shape
    return x_bgmtk.reshape(batch, groups, -1, width)


def _pair(rows: _Operands, bias_gmts: jax.Array | None, size: int, query, key) -> _Pair:
    def tokens(given: Tokens, start: jax.Array) -> Tokens:
        return Tokens(*(None if x is None else _cut(x, start, size, 1) for x in given))

    return _Pair(
        _flat(_cut(rows.q_bgmtk, query, size, 3)),
        _cut(rows.k_bgsk, key, size, 2),
        _cut(rows.v_bgsk, key, size, 2),
        tokens(rows.queries, query),
        tokens(rows.keys, key),
        None if bias_gmts is None else _cut(_cut(bias_gmts, query, size, 2), key, size, 3),
    )


def _scores(blocking: Blocking, pair: _Pair, heads: int, masked: bool):
    """Returns scores [b, g, m, t, s], which count (None: all), and the slope of their cap.

    Args:
      heads: query heads of a key/value head.
    """
    batch, groups, count, _ = pair.q_bgnk.shape
    scores_bgns = _product(pair.q_bgnk, pair.k_bgsk.mT)
    scores_bgmts = scores_bgns.reshape(batch, groups, heads, count // heads, -1)
    scores_bgmts = blocking.scoring.capped(scores_bgmts)
    cap, mask_bts = blocking.scoring.soft_cap, None
    slope_bgmts = 1 - (scores_bgmts / cap) ** 2 if cap else None
    if pair.bias_gmts is not None:
        scores_bgmts = scores_bgmts + pair.bias_gmts
    if masked:
        mask_bts = attention_mask(pair.queries, pair.keys, blocking.window)
    if mask_bts is None:
        return scores_bgmts, None, slope_bgmts
    hidden: jax.Array | float = HIDDEN
    if pair.keys.segments_bt is not None and not blocking.causal:
        # A query that may read nothing has equal weights on all keys; these are none.
        is_outside_bs = pair.keys.segments_bt == _OUTSIDE
        hidden = jnp.where(is_outside_bs, 2 * HIDDEN, HIDDEN)[:, None, None, None]
    counts_bgmts = mask_bts[:, None, None]
    return jnp.where(counts_bgmts, scores_bgmts, hidden), counts_bgmts, slope_bgmts


def _forward_rows(blocking: Blocking, rows: _Operands, bias_gmts: jax.Array | None):
    """Returns the output, the highest score of each query and the total of its weights."""
    size, shape = blocking.size, rows.q_bgmtk.shape

    def visit(carry, query, key, masked: bool):
        highest_bgmt1, total_bgmt1, sums_bgmtk = carry
        pair = _pair(rows, bias_gmts, size, query, key)
        scores_bgmts, _, _ = _scores(blocking, pair, shape[2], masked)
        before_bgmt1 = _cut(highest_bgmt1, query, size, 3)
        higher_bgmt1 = jnp.maximum(before_bgmt1, scores_bgmts.max(axis=-1, keepdims=True))
        shrink_bgmt1 = jnp.exp(before_bgmt1 - higher_bgmt1)
        weights_bgmts = jnp.exp(scores_bgmts - higher_bgmt1)
        total = _cut(total_bgmt1, query, size, 3) * shrink_bgmt1
        total = total + weights_bgmts.sum(axis=-1, keepdims=True)
        new_bgnk = _product(_flat(weights_bgmts).astype(pair.v_bgsk.dtype), pair.v_bgsk)
        sums = _cut(sums_bgmtk, query, size, 3) * shrink_bgmt1
        sums = sums + new_bgnk.reshape(sums.shape)
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=query, axis=3)
        return put(highest_bgmt1, higher_bgmt1), put(total_bgmt1, total), put(sums_bgmtk, sums)

    dtype = jnp.result_type(rows.q_bgmtk, jnp.float32)
    nothing_bgmt1 = jnp.zeros((*shape[:4], 1), dtype)
    carry = (nothing_bgmt1 + HIDDEN, nothing_bgmt1, jnp.zeros(shape, dtype))
    highest_bgmt1, total_bgmt1, sums_bgmtk = _over_pairs(blocking, rows, visit, carry)
    return sums_bgmtk / total_bgmt1, highest_bgmt1, total_bgmt1


def _backward_rows(
    blocking: Blocking,
    bias_gmts: jax.Array | None,
    dbias_gmts: jax.Array | None,
    rows: _Operands,
    dy_bgmtk: jax.Array,
    y_bgmtk: jax.Array,
    highest_bgmt1: jax.Array,
    total_bgmt1: jax.Array,
):
    """Returns the gradient of the bias so far, and of queries, keys and values transposed."""
    size, shape = blocking.size, rows.q_bgmtk.shape
    # Weights are exp(scores - highest) / total; dividing here spares a division of each weight.
    dy_bgmtk = (dy_bgmtk / total_bgmt1).astype(rows.v_bgsk.dtype)
    mean_bgmt1 = jnp.sum(dy_bgmtk * y_bgmtk, axis=-1, keepdims=True)
    # XLA multiplies a matrix from the left by rows of keys at full speed, and by columns at a
    # third of it (jaxlib 0.10.2). So what is transposed here is narrow, and never the weights.
    q_bgkmt, dy_bgkmt = (x.transpose(0, 1, 4, 2, 3) for x in (rows.q_bgmtk, dy_bgmtk))
    q_bgkmt, dy_bgkmt = jax.lax.optimization_barrier((q_bgkmt, dy_bgkmt))

    def columns(x_bgkmt: jax.Array, query: jax.Array) -> jax.Array:
        return _cut(x_bgkmt, query, size, 4).reshape(*x_bgkmt.shape[:3], -1)

    def visit(carry, query, key, masked: bool):
        dbias_gmts, dq_bgmtk, dk_bgks, dv_bgks = carry
        pair = _pair(rows, bias_gmts, size, query, key)
        scores_bgmts, counts, slope_bgmts = _scores(blocking, pair, shape[2], masked)
        weights_bgmts = jnp.exp(scores_bgmts - _cut(highest_bgmt1, query, size, 3))
        dy_bgnk = _flat(_cut(dy_bgmtk, query, size, 3))
        dweights_bgmts = _product(dy_bgnk, pair.v_bgsk.mT).reshape(scores_bgmts.shape)
        dscores_bgmts = weights_bgmts * (dweights_bgmts - _cut(mean_bgmt1, query, size, 3))
        if counts is not None:  # a query that may read nothing has equal weights
            dscores_bgmts = jnp.where(counts, dscores_bgmts, 0)
        if dbias_gmts is not None:
            start = (0, 0, query, key)
            of_pair = jax.lax.dynamic_slice(dbias_gmts, start, (*shape[1:3], size, size))
            of_pair = of_pair + dscores_bgmts.sum(axis=0)
            dbias_gmts = jax.lax.dynamic_update_slice(dbias_gmts, of_pair, start)
        dproducts = dscores_bgmts if slope_bgmts is None else dscores_bgmts * slope_bgmts
        dproducts_bgns = _flat(dproducts.astype(pair.k_bgsk.dtype))
        weights_bgns = _flat(weights_bgmts.astype(pair.v_bgsk.dtype))
        dq_pair = _product(dproducts_bgns, pair.k_bgsk).reshape(*shape[:3], size, shape[4])
        return (
            dbias_gmts,
            _added(dq_bgmtk, dq_pair, query, 3),
            _added(dk_bgks, _product(columns(q_bgkmt, query), dproducts_bgns), key, 3),
            _added(dv_bgks, _product(columns(dy_bgkmt, query), weights_bgns), key, 3),
        )

    dtype = jnp.result_type(rows.q_bgmtk, jnp.float32)
    keys_bgks = rows.k_bgsk.mT.shape
    carry = (dbias_gmts, *(jnp.zeros(x, dtype) for x in (shape, keys_bgks, keys_bgks)))
    dbias_gmts, *found = _over_pairs(blocking, rows, visit, carry)
    return dbias_gmts, tuple(found)
