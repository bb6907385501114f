"""Layers of a Transformer, stacked: training runs them as one scan, decoding one after another.

Axes: b batch, t time, s time of keys, d model width, h heads, g key/value heads, k head width,
l layers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.transformer.blocks import AttentionInputs, Block, LayerCache
from lm_jax.models.transformer.config import BlocksConfig, LayerKind
from lm_jax.models.transformer.experts import COLLECTION
from lm_jax.models.transformer.layers import NORM_ORDERS, norm, reads_transposed
from lm_jax.models.transformer.positions import POSITIONS
from lm_jax.models.transformer.remat import REMAT

# The one key of layers that were taken apart, and of those that are transposed as well.
_UNSTACKED, _TRANSPOSED = "unstacked", "transposed"

Layers = Any
"""Parameters stacked on a leading axis [l, ...], or one tree per layer: see `unstacked`."""


def is_unstacked(layers: Layers) -> bool:
    """Returns whether `unstacked` has taken the layers apart."""
    return _UNSTACKED in layers or _TRANSPOSED in layers


def layer_of(layers: Layers, index: int) -> Any:
    """Returns the parameters of one layer, with the shapes that `Model.init` gave them."""
    if _TRANSPOSED in layers:
        return jax.tree.map(_transposed, layers[_TRANSPOSED][str(index)])
    if _UNSTACKED in layers:
        return layers[_UNSTACKED][str(index)]
    return jax.tree.map(lambda x: x[index], layers)


def _transposed(x: jax.Array) -> jax.Array:
    """Returns a matrix, or each matrix of several, transposed; a vector as it is."""
    return x if x.ndim < 2 else x.mT


def unstacked(layers: Layers, dtype: Any) -> Layers:
    """Returns the parameters of each layer as separate arrays, transposed where that is faster.

    Float matrices take the dtype of their products. Inside a loop XLA would copy every layer out of
    the stack, and round its matrices, at every step; the barrier keeps it from moving these copies
    back into the loop.
    """
    count = len(jax.tree.leaves(layers)[0])
    key, turned = (_TRANSPOSED, _transposed) if reads_transposed() else (_UNSTACKED, lambda x: x)
    taken = {
        str(index): jax.tree.map(lambda x: turned(in_dtype(x, dtype)), layer_of(layers, index))
        for index in range(count)
    }
    return {key: jax.lax.optimization_barrier(taken)}


def in_dtype(x: jax.Array, dtype: Any) -> jax.Array:
    """Returns float matrices in a dtype; vectors, such as scales of norms, and integers as is."""
    return x.astype(dtype) if x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating) else x


class TransformerStack(nn.Module):
    """Embedded tokens through positions, all layers and a last norm: an encoder, or a decoder.

    The parameters of all layers are stacked on a leading `layers` axis, whether the layers are
    scanned or unrolled, so that a checkpoint of one serves the other. Given caches, one per layer,
    it returns them extended.
    """

    config: BlocksConfig
    dtype: Any
    train: bool
    num_layers: int
    max_positions: int
    is_decoder: bool
    causal: bool  # no token reads a later one; False for a decoder with a prefix
    reads_source: bool = False

    @nn.compact
    def __call__(
        self, x_btd, inputs: AttentionInputs, caches: tuple[LayerCache, ...] | None = None
    ):
        c = self.config
        num_keys = x_btd.shape[1] if caches is None else caches[0].own[0].shape[2]
        x_btd, inputs = POSITIONS[c.positions].add(self, x_btd, inputs, num_keys)
        if c.embedding_norm:
            x_btd = norm(c, self.dtype, "embedding_norm")(x_btd)
        x_btd = nn.Dropout(c.dropout_rate, deterministic=not self.train)(x_btd)
        x_btd = nn.with_logical_constraint(x_btd, ("batch", "time", None))
        self.sow("intermediates", "embedded", x_btd)
        kinds = c.layer_kinds(self.num_layers)
        if caches is None:
            x_btd, _ = self._layers()(x_btd, inputs, None, kinds)
        else:
            x_btd, caches = self._decode(x_btd, inputs, caches, kinds)
        if not NORM_ORDERS[c.norm_order].of_sum:
            x_btd = norm(c, self.dtype, "final_norm")(x_btd)
        self.sow("intermediates", "final", x_btd)
        return x_btd, caches

    def _decode(
        self,
        x_btd,
        inputs: AttentionInputs,
        caches: tuple[LayerCache, ...],
        kinds: LayerKind | None,
    ):
        """Runs layer after layer; each cache is an array of its own, written in place."""
        layers, extended_caches = self.variables["params"]["layers"], []
        transposed = _TRANSPOSED in layers
        block = Block(
            self.config, self.dtype, False, False, self.reads_source, transposed, parent=None
        )
        for index, cache in enumerate(caches):
            layer = {"params": layer_of(layers, index)}
            kind = jax.tree.map(lambda each_l, index=index: each_l[index], kinds)
            x_btd, longer = block.apply(layer, x_btd, inputs, cache, kind)
            extended_caches.append(longer)
        return x_btd, tuple(extended_caches)

    def _layers(self):
        c = self.config
        stack = nn.scan(
            REMAT[c.remat](Block, c.scan_layers),
            variable_axes={"params": 0, "intermediates": 0, COLLECTION: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=self.num_layers,
            unroll=1 if c.scan_layers else self.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stack(c, self.dtype, self.train, self.causal, self.reads_source, name="layers")
