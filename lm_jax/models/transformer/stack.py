"""Layers of a Transformer, stacked: training runs them as one scan, decoding one after another.

Axes: b batch, t time, s time of keys, d model width, h heads, g key/value heads, k head width,
l layers, n buckets of relative positions.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.transformer.attention import relative_buckets, sinusoids
from lm_jax.models.transformer.blocks import AttentionInputs, Block, LayerCache
from lm_jax.models.transformer.config import BlocksConfig
from lm_jax.models.transformer.flash_attention import PRIMITIVE
from lm_jax.models.transformer.layers import norm, table

_UNSTACKED = "unstacked"  # the one key of layers that were taken apart

Layers = Any
"""Parameters stacked on a leading axis [l, ...], or one tree per layer: see `unstacked`."""


def is_unstacked(layers: Layers) -> bool:
    """Whether `unstacked` has taken the layers apart."""
    return _UNSTACKED in layers


def layer_of(layers: Layers, index: int) -> Any:
    """Returns the parameters of one layer, with the shapes that `Model.init` gave them."""
    if is_unstacked(layers):
        return jax.tree.map(jnp.transpose, layers[_UNSTACKED][str(index)])
    return jax.tree.map(lambda x: x[index], layers)


def unstacked(layers: Layers) -> Layers:
    """Returns the parameters of each layer as separate arrays, transposed for `product`.

    Inside a loop XLA would copy every layer out of the stack at every step; the barrier keeps it
    from moving these copies back into the loop.
    """
    count = len(jax.tree.leaves(layers)[0])
    taken = {
        str(index): jax.tree.map(jnp.transpose, layer_of(layers, index)) for index in range(count)
    }
    return {_UNSTACKED: jax.lax.optimization_barrier(taken)}


def _keeps_products(primitive, *arguments, **params) -> bool:
    """Remat policy: save weight products and cuDNN attention residuals, never the scores."""
    keep_dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return primitive.name == PRIMITIVE or keep_dots(primitive, *arguments, **params)


_REMAT_POLICIES = {"dots": _keeps_products, "full": None}


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
        x_btd, inputs = self._add_positions(x_btd, inputs, caches)
        if c.embedding_norm:
            x_btd = norm(c, self.dtype, "embedding_norm")(x_btd)
        x_btd = nn.Dropout(c.dropout_rate, deterministic=not self.train)(x_btd)
        x_btd = nn.with_logical_constraint(x_btd, ("batch", "time", None))
        if caches is None:
            x_btd, _ = self._layers()(x_btd, inputs, None)
        else:
            x_btd, caches = self._decode(x_btd, inputs, caches)
        if c.norm_order == "pre":
            x_btd = norm(c, self.dtype, "final_norm")(x_btd)
        return x_btd, caches

    def _add_positions(self, x_btd, inputs: AttentionInputs, caches):
        """Adds positions to the activations or, relative ones, to the scores of all layers."""
        c = self.config
        if c.positions == "learned":
            shape = (self.max_positions, c.d_model)
            positions_td = table(self, "positions", shape, ("positions", "embed"))
            x_btd = x_btd + jnp.asarray(positions_td, self.dtype)[inputs.positions_bt]
        elif c.positions == "sinusoidal":
            x_btd = x_btd + sinusoids(inputs.positions_bt, c.d_model).astype(self.dtype)
        elif c.positions == "relative":
            shape = (c.relative_buckets, c.num_heads)
            bias_nh = table(self, "relative_bias", shape, ("positions", "heads"))
            time = x_btd.shape[1]
            keys_s = jnp.arange(time if caches is None else caches[0].own[0].shape[2])
            buckets_ts = relative_buckets(
                inputs.start + jnp.arange(time),
                keys_s,
                c.relative_buckets,
                c.relative_distance,
                not self.is_decoder,
            )
            inputs = inputs._replace(bias_hts=jnp.moveaxis(bias_nh[buckets_ts], -1, 0))
        return x_btd, inputs

    def _decode(self, x_btd, inputs: AttentionInputs, caches: tuple[LayerCache, ...]):
        """Runs layer after layer; each cache is an array of its own, written in place."""
        layers, extended_caches = self.variables["params"]["layers"], []
        transposed = is_unstacked(layers)
        block = Block(
            self.config, self.dtype, False, False, self.reads_source, transposed, parent=None
        )
        for index, cache in enumerate(caches):
            layer = {"params": layer_of(layers, index)}
            x_btd, longer = block.apply(layer, x_btd, inputs, cache)
            extended_caches.append(longer)
        return x_btd, tuple(extended_caches)

    def _layers(self):
        c = self.config
        block = Block
        if c.remat != "none":
            # Outside a loop XLA may find what is recomputed among what was computed, and keep it.
            keep = _REMAT_POLICIES[c.remat]
            block = nn.remat(Block, prevent_cse=not c.scan_layers, policy=keep)
        stack = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.num_layers,
            unroll=1 if c.scan_layers else self.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stack(c, self.dtype, self.train, self.causal, self.reads_source, name="layers")
