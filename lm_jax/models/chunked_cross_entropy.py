"""Cross-entropy over a large vocabulary, a piece of it at a time: no [b, t, v] of logits is held.

Forward, a running maximum and a running sum give the normalizer (Milakov and Gimelshein 2018,
algorithm 3); backward, the logits of each piece are made again (Wijmans et al. 2024): one more
product with the output matrix, for memory that is a piece's.

The pieces are of the vocabulary, not of the tokens: so the gradient of each row of the output
matrix is whole after its piece, where pieces of tokens would sum a [v, d] over the devices once a
piece. What the devices of the vocabulary's mesh axes find is put together after the last piece;
`jax.shard_map` says so, since the partitioner would exchange inside the loop.

Axes: b batch, t time, d model width, v vocabulary, n pieces, c vocabulary of a piece.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm_jax.models.interface import Losses


def chunked_cross_entropy(
    x_btd: jax.Array,
    output_vd: jax.Array,
    targets_bt: jax.Array,
    num_chunks: int,
    *,
    soft_cap: float = 0.0,
    bias_v: jax.Array | None = None,
) -> Losses:
    """Returns `cross_entropy` of `cap(x_btd output_vd^T) + bias_v` for targets_bt int32.

    Products are taken in the dtype of x_btd and summed in float32; in float32 losses and gradients
    are those of the plain path but for rounding.

    Args:
      num_chunks: the pieces of the vocabulary, on each device of those that it is split over.
      soft_cap: 0, or logits become soft_cap * tanh(logits / soft_cap) before the bias.
    """
    return Losses(*_losses(x_btd, output_vd, bias_v, targets_bt, num_chunks, soft_cap))


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _losses(x_btd, output_vd, bias_v, targets_bt, num_chunks: int, soft_cap: float):
    return _forward(x_btd, output_vd, bias_v, targets_bt, num_chunks, soft_cap)[0]


def _forward(x_btd, output_vd, bias_v, targets_bt, num_chunks: int, soft_cap: float):
    split, vocab_size = _split(x_btd, output_vd), output_vd.shape[0]

    def local(x_btd, output_vd, bias_v, targets_bt):
        def piece(sums: _Sums, rows: _Rows):
            logits_btc, _ = _logits(x_btd, rows, soft_cap)
            highest_bt = jnp.maximum(sums.highest, jnp.max(logits_btc, axis=-1))
            is_highest_btc = logits_btc == highest_bt[..., None]
            # The first of equal logits wins, as in jnp.argmax.
            first_bt = jnp.min(jnp.where(is_highest_btc, rows.id_c, vocab_size), axis=-1)
            kept_bt = jnp.where(sums.highest == highest_bt, sums.first, vocab_size)
            is_target_btc = rows.id_c == targets_bt[..., None]
            return _Sums(
                highest_bt,
                jnp.minimum(kept_bt, first_bt),
                sums.exponentials * jnp.exp(sums.highest - highest_bt)
                + jnp.sum(jnp.exp(logits_btc - highest_bt[..., None]), axis=-1),
                sums.logits + jnp.sum(jnp.where(rows.exists_c, logits_btc, 0), axis=-1),
                sums.target + jnp.sum(jnp.where(is_target_btc, logits_btc, 0), axis=-1),
            ), None

        zero_bt = jnp.zeros(targets_bt.shape, jnp.float32)
        none = _Sums(zero_bt - jnp.inf, jnp.zeros_like(targets_bt), zero_bt, zero_bt, zero_bt)
        pieces = _pieces(output_vd, bias_v, num_chunks, split)
        sums = _together(jax.lax.scan(piece, none, pieces)[0], split, vocab_size)
        normalizer_bt = sums.highest + jnp.log(sums.exponentials)
        correct_bt = (sums.first == targets_bt).astype(jnp.float32)
        uniform_bt = normalizer_bt - sums.logits / vocab_size
        return normalizer_bt - sums.target, correct_bt, uniform_bt, normalizer_bt

    *losses, normalizer_bt = _on_shards(
        local,
        split,
        (x_btd, output_vd, bias_v, targets_bt),
        (_X, _OUTPUT, _BIAS, _TOKENS),
        (_TOKENS,) * 4,
    )
    return tuple(losses), (x_btd, output_vd, bias_v, targets_bt, normalizer_bt)


def _backward(num_chunks: int, soft_cap: float, kept, cotangents):
    x_btd, output_vd, bias_v, targets_bt, normalizer_bt = kept
    nats_bt, _, uniform_bt = cotangents
    split, vocab_size = _split(x_btd, output_vd), output_vd.shape[0]

    def local(x_btd, output_vd, bias_v, targets_bt, normalizer_bt, nats_bt, uniform_bt):
        def piece(x_grad_btd, rows: _Rows):
            logits_btc, slope_btc = _logits(x_btd, rows, soft_cap)
            chance_btc = jnp.exp(logits_btc - normalizer_bt[..., None])
            is_target_btc = rows.id_c == targets_bt[..., None]
            grad_btc = (nats_bt + uniform_bt)[..., None] * chance_btc
            grad_btc -= jnp.where(is_target_btc, nats_bt[..., None], 0)
            grad_btc -= jnp.where(rows.exists_c, uniform_bt[..., None] / vocab_size, 0)
            bias_grad_c = None if rows.bias_c is None else jnp.sum(grad_btc, axis=(0, 1))
            grad_btc = (grad_btc * slope_btc).astype(x_btd.dtype)
            x_grad_btd += _product("btc,cd->btd", grad_btc, rows.output_cd.astype(x_btd.dtype))
            return x_grad_btd, (_product("btc,btd->cd", grad_btc, x_btd), bias_grad_c)

        x_grad_btd = jnp.zeros(x_btd.shape, jnp.float32)
        pieces = _pieces(output_vd, bias_v, num_chunks, split)
        x_grad_btd, (output_grad_ncd, bias_grad_nc) = jax.lax.scan(piece, x_grad_btd, pieces)
        size, width = output_vd.shape
        output_grad_vd = _psum(output_grad_ncd.reshape(-1, width)[:size], split.tokens)
        bias_grad_v = None
        if bias_v is not None:
            bias_grad_v = _psum(bias_grad_nc.reshape(-1)[:size], split.tokens)
        return _psum(x_grad_btd, split.vocab), output_grad_vd, bias_grad_v

    x_grad_btd, output_grad_vd, bias_grad_v = _on_shards(
        local,
        split,
        (x_btd, output_vd, bias_v, targets_bt, normalizer_bt, nats_bt, uniform_bt),
        (_X, _OUTPUT, _BIAS, *(_TOKENS,) * 4),
        (_X, _OUTPUT, _BIAS),
    )
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

    def stacked(x_v: jax.Array) -> jax.Array:
        filled = [(0, length * count - size)] + [(0, 0)] * (x_v.ndim - 1)
        return jnp.pad(x_v, filled).reshape(count, length, *x_v.shape[1:])

    index_nc = jnp.arange(count * length, dtype=jnp.int32).reshape(count, length)
    first = jax.lax.axis_index(split.vocab) * size if split.vocab else 0
    exists_nc = index_nc < size
    id_nc = jnp.where(exists_nc, index_nc + first, jnp.iinfo(jnp.int32).max)
    bias_nc = None if bias_v is None else stacked(bias_v)
    return _Rows(stacked(output_vd), bias_nc, id_nc, exists_nc)


def _logits(x_btd: jax.Array, rows: _Rows, soft_cap: float) -> tuple[jax.Array, jax.Array | float]:
    """Returns a piece's logits, float32, -inf where there is no such token, and the cap's slope."""
    logits_btc = _product("btd,cd->btc", x_btd, rows.output_cd.astype(x_btd.dtype))
    slope_btc: jax.Array | float = 1.0
    if soft_cap:
        capped_btc = jnp.tanh(logits_btc / soft_cap)
        logits_btc, slope_btc = soft_cap * capped_btc, 1 - jnp.square(capped_btc)
    if rows.bias_c is not None:
        logits_btc += rows.bias_c
    return jnp.where(rows.exists_c, logits_btc, -jnp.inf), slope_btc


def _product(axes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


class _Sums(NamedTuple):
    """Over the pieces so far, [b, t] each."""

    highest: jax.Array
    first: jax.Array  # the first token with that logit
    exponentials: jax.Array  # the sum of exp(logit - highest)
    logits: jax.Array  # their sum
    target: jax.Array  # the target's logit, 0 while it is not among them


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
