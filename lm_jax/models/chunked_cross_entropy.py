"""Cross-entropy over a large vocabulary without float32 logits [b, t, v].

In one piece the logits are held once, in a dtype of choice, and their gradient takes their place.
In several pieces none of them stay: forward, each piece updates a running maximum and a running sum
(Milakov and Gimelshein 2018, algorithm 3); backward, the logits of each piece are made again
(Wijmans et al. 2024): one more product with the output matrix, for memory that is a piece's.

The pieces are of the vocabulary, not of the tokens: so the gradient of each row of the output
matrix is whole after its piece, where pieces of tokens would sum a [v, d] over the devices once a
piece. What the devices of the vocabulary's mesh axes find is put together after the last piece;
`jax.shard_map` says so, since the partitioner would exchange inside the loop.

Axes: b batch, t time, d model width, v vocabulary, n pieces, c vocabulary of a piece.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from lm_jax.models.interface import Losses
from lm_jax.models.target import target

_NO_TOKEN = np.int32(np.iinfo(np.int32).max)
_LEAST = -1e30  # the logit of a token that does not exist: finite, so that no difference is NaN
_PARTS = 8  # of the tokens, whose gradients are made at a time
_TILE = 64  # tensor cores multiply whole tiles; a large piece is filled up to them


class _How(NamedTuple):
    """What is not differentiated, and the same in both passes."""

    num_chunks: int
    soft_cap: float
    dtype: Any  # of logits


def chunked_cross_entropy(
    x_btd: jax.Array,
    output_vd: jax.Array,
    targets_bt: jax.Array,
    num_chunks: int,
    *,
    soft_cap: float = 0.0,
    bias_v: jax.Array | None = None,
    dtype: Any = jnp.float32,
) -> Losses:
    """Returns `cross_entropy` of `cap(x_btd output_vd^T) + bias_v` for targets_bt int32.

    Products are taken in the dtype of x_btd and summed in float32; in float32 losses and gradients
    are those of the plain path but for rounding.

    Args:
      num_chunks: the pieces of the vocabulary, on each device of those that it is split over. One
        piece is kept for the backward pass, several are made again.
      soft_cap: 0, or logits become soft_cap * tanh(logits / soft_cap) before the bias.
      dtype: what products are rounded to before losses are computed in float32.
    """
    how = _How(num_chunks, soft_cap, dtype)
    found = _losses(x_btd, output_vd, bias_v, targets_bt, how)
    nats_bt, correct_bt, uniform_bt, normalizer_bt = found
    return Losses(nats_bt, correct_bt, uniform_bt, log_normalizer=normalizer_bt)


class _Split(NamedTuple):
    """The mesh axes that split each dimension; empty where it is whole."""

    batch: tuple[str, ...]
    time: tuple[str, ...]
    vocab: tuple[str, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.batch + self.time


def _split(x_btd: jax.Array, output_vd: jax.Array) -> _Split:
    """Splits by the logical axes of the mesh in context; what does not divide stays whole."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _Split((), (), ())
    axes = []
    sizes = (*x_btd.shape[:2], output_vd.shape[0])
    entries = nn.logical_to_mesh_axes(_Split._fields) or ()
    for size, entry in zip(sizes, entries, strict=True):
        names = (entry,) if isinstance(entry, str) else tuple(entry or ())
        divides = size % math.prod(mesh.shape[name] for name in names) == 0
        axes.append(names if divides else ())
    return _Split(*axes)


def _on_shards(function, split: _Split, arguments: tuple, axes: tuple, out_axes: tuple):
    """Returns the function of a device's share of each array, whose dimensions `axes` name."""
    if not any(split):
        return function(*arguments)

    def spec(names: tuple[str, ...]) -> PartitionSpec:
        return PartitionSpec(*(getattr(split, name, ()) or None for name in names))

    return jax.shard_map(
        function,
        in_specs=tuple(map(spec, axes)),
        out_specs=tuple(map(spec, out_axes)),
        check_vma=False,
    )(*arguments)


_TOKENS, _BIAS = ("batch", "time"), ("vocab",)
_X, _OUTPUT = (*_TOKENS, "embed"), (*_BIAS, "embed")
_LOGITS = (*_TOKENS, *_BIAS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _losses(x_btd, output_vd, bias_v, targets_bt, how: _How):
    return _forward(x_btd, output_vd, bias_v, targets_bt, how)[0]


def _forward(x_btd, output_vd, bias_v, targets_bt, how: _How):
    split, vocab_size = _split(x_btd, output_vd), output_vd.shape[0]

    def local(x_btd, output_vd, bias_v, targets_bt):
        def piece(sums: _Sums, rows: _Rows):
            product_btc = _product("btd,cd->btc", x_btd, rows.output_cd, how.dtype)
            logits_btc, _ = _logits(product_btc, rows, how.soft_cap)
            return _merged(sums, _summed(logits_btc, rows, targets_bt)), product_btc

        pieces = _pieces(output_vd, bias_v, how.num_chunks, split)
        none = jax.tree.map(lambda x: jnp.full(targets_bt.shape, x), _NOTHING)
        if how.num_chunks == 1:
            sums, kept_btc = piece(none, jax.tree.map(lambda x: x[0], pieces))
        else:
            sums, kept_btc = jax.lax.scan(lambda *given: (piece(*given)[0], None), none, pieces)
        sums = _together(sums, split, vocab_size)
        normalizer_bt = sums.highest + jnp.log(sums.exponentials)
        correct_bt = (sums.first == targets_bt).astype(jnp.float32)
        uniform_bt = normalizer_bt - sums.logits / vocab_size
        return normalizer_bt - sums.target, correct_bt, uniform_bt, normalizer_bt, kept_btc

    *losses, normalizer_bt, kept_btv = _on_shards(
        local,
        split,
        (x_btd, output_vd.astype(x_btd.dtype), bias_v, targets_bt),  # then it is gathered
        (_X, _OUTPUT, _BIAS, _TOKENS),
        ((_TOKENS,) * 4 + (_LOGITS,)),
    )
    return (*losses, normalizer_bt), (x_btd, output_vd, bias_v, targets_bt, normalizer_bt, kept_btv)


def _backward(how: _How, kept, cotangents):
    x_btd, output_vd, bias_v, targets_bt, normalizer_bt, kept_btv = kept
    nats_bt, _, uniform_bt, of_normalizer_bt = cotangents
    whole_bt = nats_bt + uniform_bt + of_normalizer_bt  # what each chance is multiplied by
    split, vocab_size = _split(x_btd, output_vd), output_vd.shape[0]

    def local(x_btd, output_vd, bias_v, kept_btc, *of_tokens):
        def slopes(
            product_btc, rows: _Rows, targets_bt, normalizer_bt, nats_bt, uniform_bt, whole_bt
        ):
            """Returns the gradients of biased logits, float32, and of the products."""
            logits_btc, slope_btc = _logits(product_btc, rows, how.soft_cap)
            chance_btc = jnp.exp(logits_btc - normalizer_bt[..., None])
            is_target_btc = rows.id_c == targets_bt[..., None]
            grad_btc = whole_bt[..., None] * chance_btc
            grad_btc -= jnp.where(is_target_btc, nats_bt[..., None], 0)
            grad_btc -= jnp.where(rows.exists_c, uniform_bt[..., None] / vocab_size, 0)
            return grad_btc, (grad_btc * slope_btc).astype(x_btd.dtype)

        def piece(x_grad_btd, rows: _Rows):
            output_cd, bias_grad_c = rows.output_cd, None
            if writes_in_place:
                grad_btc = _in_place(
                    lambda *given: slopes(given[0], rows, *given[1:])[1], kept_btc, of_tokens
                )
            else:
                product_btc = kept_btc
                if product_btc is None:
                    product_btc = _product("btd,cd->btc", x_btd, output_cd, how.dtype)
                biased_btc, grad_btc = slopes(product_btc, rows, *of_tokens)
                bias_grad_c = None if bias_v is None else jnp.sum(biased_btc, axis=(0, 1))
            part_btd = _product("btc,cd->btd", grad_btc, output_cd, sum_dtype)
            output_grad_cd = _product("btc,btd->cd", grad_btc, x_btd, x_btd.dtype)
            if target() == "cuda":  # or its scheduler holds the gradient of logits to the end
                part_btd, output_grad_cd = jax.lax.optimization_barrier((part_btd, output_grad_cd))
            x_grad_btd = part_btd if x_grad_btd is None else x_grad_btd + part_btd
            return x_grad_btd, (output_grad_cd, bias_grad_c)

        # GPUs would hold a second array; TPUs make the gradient inside the products that read it.
        is_alone = kept_btc is not None and bias_v is None and kept_btc.dtype == x_btd.dtype
        writes_in_place = is_alone and target() != "tpu"
        is_whole = how.num_chunks == 1 and not split.vocab
        sum_dtype = x_btd.dtype if is_whole else jnp.float32
        pieces = _pieces(output_vd, bias_v, how.num_chunks, split)
        if how.num_chunks == 1:
            x_grad_btd, grads = piece(None, jax.tree.map(lambda x: x[0], pieces))
        else:
            zero_btd = jnp.zeros(x_btd.shape, jnp.float32)
            x_grad_btd, grads = jax.lax.scan(piece, zero_btd, pieces)
        output_grad_ncd, bias_grad_nc = grads
        size, width = output_vd.shape
        output_grad_vd = output_grad_ncd.reshape(-1, width)[:size]
        if split.tokens:  # what devices add up they add up in float32
            output_grad_vd = _psum(output_grad_vd.astype(jnp.float32), split.tokens)
        bias_grad_v = None
        if bias_v is not None:
            bias_grad_v = _psum(bias_grad_nc.reshape(-1)[:size], split.tokens)
        return _psum(x_grad_btd, split.vocab), output_grad_vd, bias_grad_v

    x_grad_btd, output_grad_vd, bias_grad_v = _on_shards(
        local,
        split,
        (
            *(x_btd, output_vd.astype(x_btd.dtype), bias_v, kept_btv),
            *(targets_bt, normalizer_bt, nats_bt, uniform_bt, whole_bt),
        ),
        (_X, _OUTPUT, _BIAS, _LOGITS) + (_TOKENS,) * 5,
        (_X, _OUTPUT, _BIAS),
    )
    if target() == "tpu" and split.tokens:
        # Devices then sum the matrix's gradient beside the product that makes x_grad_btd. XLA would
        # sum it last, when no work is left that hides it.
        x_grad_btd, output_grad_vd = jax.lax.optimization_barrier((x_grad_btd, output_grad_vd))
    return x_grad_btd.astype(x_btd.dtype), output_grad_vd.astype(output_vd.dtype), bias_grad_v, None


_losses.defvjp(_forward, _backward)


class _Rows(NamedTuple):
    """A piece of the vocabulary; stacked, all of a device's."""

    output_cd: jax.Array
    bias_c: jax.Array | None
    id_c: jax.Array  # int32; from the size of the vocabulary on where the last piece is filled up
    exists_c: jax.Array


def _pieces(output_vd: jax.Array, bias_v: jax.Array | None, count: int, split: _Split) -> _Rows:
    size = output_vd.shape[0]
    length = -(-size // count)
    if length > 16 * _TILE:
        length = -(-length // _TILE) * _TILE

    def stacked(x_v: jax.Array) -> jax.Array:
        filled = [(0, length * count - size)] + [(0, 0)] * (x_v.ndim - 1)
        return jnp.pad(x_v, filled).reshape(count, length, *x_v.shape[1:])

    index_nc = jnp.arange(count * length, dtype=jnp.int32).reshape(count, length)
    first = jax.lax.axis_index(split.vocab) * size if split.vocab else 0
    exists_nc = index_nc < size
    id_nc = jnp.where(exists_nc, index_nc + first, _NO_TOKEN)
    bias_nc = None if bias_v is None else stacked(bias_v)
    return _Rows(stacked(output_vd), bias_nc, id_nc, exists_nc)


def _in_place(function, x_btc: jax.Array, of_tokens: tuple[jax.Array, ...]) -> jax.Array:
    """Returns a function of an array and of values of its tokens, written into that array.

    A loop over parts of the tokens: XLA for GPUs would hold the function as a second array.
    """
    shape, tokens = x_btc.shape, math.prod(x_btc.shape[:-1])
    parts = math.gcd(tokens, _PARTS)
    length = tokens // parts

    def write(index, x_nc):
        first = index * length
        given = [jax.lax.dynamic_slice_in_dim(x, first, length) for x in (x_nc, *flat)]
        return jax.lax.dynamic_update_slice_in_dim(x_nc, function(*given), first, axis=0)

    flat = [x.reshape(tokens) for x in of_tokens]
    return jax.lax.fori_loop(0, parts, write, x_btc.reshape(tokens, -1)).reshape(shape)


def _logits(
    product_btc: jax.Array, rows: _Rows, soft_cap: float
) -> tuple[jax.Array, jax.Array | float]:
    """Returns logits, float32, -1e30 where there is no such token, and the cap's slope."""
    logits_btc = product_btc.astype(jnp.float32)
    slope_btc: jax.Array | float = 1.0
    if soft_cap:
        capped_btc = jnp.tanh(logits_btc / soft_cap)
        logits_btc, slope_btc = soft_cap * capped_btc, 1 - jnp.square(capped_btc)
    if rows.bias_c is not None:
        logits_btc += rows.bias_c
    return jnp.where(rows.exists_c, logits_btc, _LEAST), slope_btc


def _product(axes: str, a: jax.Array, b: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.einsum(axes, a, b, preferred_element_type=dtype)


class _Sums(NamedTuple):
    """Over a part of the vocabulary, of each token."""

    highest: Any
    first: Any  # the first token with that logit
    exponentials: Any  # the sum of exp(logit - highest)
    logits: Any  # their sum
    target: Any  # the target's logit, 0 while it is not among them


_NOTHING = _Sums(np.float32(_LEAST), _NO_TOKEN, *np.zeros(3, np.float32))


def _summed(logits_btc: jax.Array, rows: _Rows, targets_bt: jax.Array) -> _Sums:
    """Returns the sums of a piece."""
    existing_btc = jnp.where(rows.exists_c, logits_btc, 0)
    of_target_btc = jnp.where(rows.id_c == targets_bt[..., None], logits_btc, 0)
    if target() == "cuda":  # one pass over memory; maximum and sum apart are two
        id_btc, one_btc = jnp.broadcast_to(rows.id_c, logits_btc.shape), jnp.ones_like(logits_btc)
        parts = _Sums(logits_btc, id_btc, one_btc, existing_btc, of_target_btc)
        return jax.lax.reduce(parts, _NOTHING, _merged, (logits_btc.ndim - 1,))
    highest_bt = jnp.max(logits_btc, axis=-1)
    is_highest_btc = logits_btc == highest_bt[..., None]
    return _Sums(
        highest_bt,
        jnp.min(jnp.where(is_highest_btc, rows.id_c, _NO_TOKEN), axis=-1),
        jnp.sum(jnp.exp(logits_btc - highest_bt[..., None]), axis=-1),
        jnp.sum(existing_btc, axis=-1),
        jnp.sum(of_target_btc, axis=-1),
    )


def _merged(a: _Sums, b: _Sums) -> _Sums:
    """Returns the sums of two parts of the vocabulary; the first of equal logits wins."""
    a_wins = a.highest >= b.highest
    smaller = jnp.exp(-jnp.abs(a.highest - b.highest))
    first = jnp.where(a_wins, a.first, b.first)
    return _Sums(
        jnp.maximum(a.highest, b.highest),
        jnp.where(a.highest == b.highest, jnp.minimum(a.first, b.first), first),
        jnp.where(
            a_wins,
            a.exponentials + smaller * b.exponentials,
            smaller * a.exponentials + b.exponentials,
        ),
        a.logits + b.logits,
        a.target + b.target,
    )


def _together(sums: _Sums, split: _Split, vocab_size: int) -> _Sums:
    """Sums over all devices that the vocabulary is split over."""
    if not split.vocab:
        return sums
    highest_bt = jax.lax.pmax(sums.highest, split.vocab)
    first_bt = jnp.where(sums.highest == highest_bt, sums.first, vocab_size)
    exponentials_bt = sums.exponentials * jnp.exp(sums.highest - highest_bt)
    return _Sums(
        highest_bt,
        jax.lax.pmin(first_bt, split.vocab),
        *jax.lax.psum((exponentials_bt, sums.logits, sums.target), split.vocab),
    )


def _psum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(x, axes) if axes else x
