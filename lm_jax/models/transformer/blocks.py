"""What Transformers are made of: attention, feed-forward, the block, and a tower of blocks.

Axes: b batch, t time, s time of what is attended to, d model width, f feed-forward width, h heads,
g key/value heads, k head width, l layers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.parameters import declared, declared_kernel
from lm_jax.models.transformer.attention import (
    Tokens,
    attend,
    attend_cache,
    attention_weights,
    relative_buckets,
    rotate,
    sees,
    sinusoids,
)
from lm_jax.models.transformer.config import BlocksConfig
from lm_jax.models.transformer.flash_attention import PRIMITIVE, attend_fused
from lm_jax.models.transformer.ring_attention import ring_attend, time_axis

_GATES: dict[str, Callable] = {
    "swiglu": nn.silu,
    "geglu": lambda x: nn.gelu(x, approximate=True),
}
_ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}


_FEW_ROWS = 64
_WHOLE = ("batch", None, "kv_heads", None)  # keys and values, gathered over time


class Rows(NamedTuple):
    """What attention needs to know of a batch besides its activations."""

    positions_bt: jax.Array  # inside the document
    mask_bts: jax.Array | None  # None: all see all, or with cuDNN all earlier ones
    start: jax.Array | int = 0  # decoding: where in the cache these tokens belong
    source_bsd: jax.Array | None = None  # what an encoder made of the source
    source_mask_bts: jax.Array | None = None
    bias_hts: jax.Array | None = None  # of relative positions, the same in all layers
    # Queries and keys of which a ring makes the masks itself, block by block.
    ring: tuple[Tokens, Tokens] | None = None
    source_ring: tuple[Tokens, Tokens] | None = None


KeysValues = tuple[jax.Array, jax.Array]  # a cache: [b, g, s, k] each


class LayerCache(NamedTuple):
    """What a layer keeps of the tokens and of the source that it has read."""

    own: KeysValues
    source: KeysValues | None


def layer_of(layers: Any, index: int) -> Any:
    """The parameters of a layer, of stacked layers or of those that `unstacked` took apart."""
    if "0" in layers:
        return jax.tree.map(jnp.transpose, layers[str(index)])
    return jax.tree.map(lambda x: x[index], layers)


def unstacked(layers: Any) -> Any:
    """Stacked layers as arrays of their own, transposed for `product`.

    Inside a loop XLA would copy every layer out of the stack at every step; the barrier keeps it
    from moving these copies back into the loop.
    """
    count = len(jax.tree.leaves(layers)[0])
    layer = functools.partial(layer_of, layers)
    taken = {str(index): jax.tree.map(jnp.transpose, layer(index)) for index in range(count)}
    return jax.lax.optimization_barrier(taken)


def product(x: jax.Array, kernel_io: jax.Array, dtype: Any = None) -> jax.Array:
    """x [..., i] times a matrix that lies transposed, [..., o].

    A few rows are multiplied as columns, from the right: a CPU reads the matrix twice as fast so.
    """
    rows, (inputs, outputs) = math.prod(x.shape[:-1]), kernel_io.shape
    if rows > _FEW_ROWS:
        return jnp.matmul(x, kernel_io, preferred_element_type=dtype)
    y_or = jnp.matmul(kernel_io.T, x.reshape(rows, inputs).T, preferred_element_type=dtype)
    return y_or.T.reshape(*x.shape[:-1], outputs)


def _product(x, kernel_io, dimension_numbers, precision=None, preferred_element_type=None):
    """`product` in the form which Flax calls."""
    return product(x, kernel_io, preferred_element_type)


def dense(
    config,
    dtype,
    features: int,
    axes: tuple[str, str],
    name=None,
    stddev: float = 0.02,
    transposed: bool = False,
    head: bool = False,
):
    """A linear layer with biases where the configuration has them."""
    return nn.Dense(
        features,
        use_bias=config.use_bias,
        dtype=dtype,
        dot_general=_product if transposed else jax.lax.dot_general,
        kernel_init=declared_kernel(nn.initializers.normal(stddev), axes, head=head),
        bias_init=declared(nn.initializers.zeros, axes[1:], head=head),
        name=name,
    )


def norm(config, dtype, name: str, head: bool = False):
    """The norm of the configuration."""
    scale = declared(nn.initializers.ones, ("norm",), head=head)
    epsilon = config.norm_epsilon
    if config.norm == "rms_norm":
        return nn.RMSNorm(epsilon=epsilon, dtype=dtype, scale_init=scale, name=name)
    bias = declared(nn.initializers.zeros, ("norm",), head=head)
    return nn.LayerNorm(
        epsilon=epsilon,
        use_bias=config.use_bias,
        dtype=dtype,
        scale_init=scale,
        bias_init=bias,
        name=name,
    )


def residual_stddev(config) -> float:
    """Of what is added to the stream by each block (Radford et al. 2019, section 2.3)."""
    return 0.02 / math.sqrt(2 * config.num_layers)


class Attention(nn.Module):
    """Attention of x_btd to itself, or (`across`) to the source; or to a cache of either."""

    config: BlocksConfig
    dtype: Any
    causal: bool = False
    across: bool = False
    transposed: bool = False  # kernels lie so

    def setup(self):
        c = self.config
        self.query = self._projection(c.num_heads, "heads")
        self.key = self._projection(c.kv_heads, "kv_heads")
        self.value = self._projection(c.kv_heads, "kv_heads")
        axes = ("heads", "embed")
        stddev = residual_stddev(c)
        self.output = dense(c, self.dtype, c.d_model, axes, None, stddev, self.transposed)

    def _projection(self, count: int, axis: str):
        width, axes = count * self.config.head_width, ("embed", axis)
        return dense(self.config, self.dtype, width, axes, transposed=self.transposed)

    def _heads(self, y_btd, axis: str):
        y_bthk = y_btd.reshape(*y_btd.shape[:2], -1, self.config.head_width)
        return nn.with_logical_constraint(y_bthk, ("batch", "time", axis, None))

    def keys_values(self, x_bsd) -> KeysValues:
        """What may be attended to, [b, s, g, k] each."""
        return self._heads(self.key(x_bsd), "kv_heads"), self._heads(self.value(x_bsd), "kv_heads")

    def __call__(self, x_btd, rows: Rows, cache: KeysValues | None):
        c = self.config
        q_bthk = self._heads(self.query(x_btd), "heads")
        mask_bts = rows.source_mask_bts if self.across else rows.mask_bts
        ring = rows.source_ring if self.across else rows.ring
        bias_hts = None if self.across else rows.bias_hts
        if self.across and cache is not None:
            k, v = cache
        else:
            k, v = self.keys_values(rows.source_bsd if self.across else x_btd)
        if c.positions == "rotary" and not self.across:
            q_bthk = rotate(q_bthk, rows.positions_bt, c.rotary_base)
            k = rotate(k, rows.positions_bt, c.rotary_base)
        if cache is None:
            if self.is_mutable_collection("intermediates"):
                mask_bts = sees(*ring) if ring else mask_bts
                self.sow("intermediates", "map", attention_weights(q_bthk, k, mask_bts, bias_hts))
            if ring:
                y_bthk = ring_attend(q_bthk, k, v, bias_hts, *ring)
            elif c.attention == "cudnn" and not time_axis():  # its rule lets nobody split time
                if mask_bts is not None:  # the kernel wants it split as the queries are
                    mask_bts = nn.with_logical_constraint(mask_bts, ("batch", "time", None))
                y_bthk = attend_fused(q_bthk, k, v, mask_bts, causal=self.causal)
            elif time_axis():
                k, v = (nn.with_logical_constraint(x, _WHOLE) for x in (k, v))
                y_bthk = attend(q_bthk, k, v, mask_bts, bias_hts)
            else:
                y_bthk = attend(q_bthk, k, v, mask_bts, bias_hts, causal=self.causal)
        else:
            if not self.across:
                k, v = (extended(*pair, rows.start) for pair in zip(cache, (k, v), strict=True))
                cache = (k, v)
            y_bthk = attend_cache(q_bthk, k, v, mask_bts, bias_hts)
        return self.output(y_bthk.reshape(*x_btd.shape[:2], -1)), cache


def extended(cache_bgsk: jax.Array, new_btgk: jax.Array, start: jax.Array | int) -> jax.Array:
    """The cache with new keys or values from `start` on."""
    new_bgtk = new_btgk.transpose(0, 2, 1, 3).astype(cache_bgsk.dtype)
    return jax.lax.dynamic_update_slice(cache_bgsk, new_bgtk, (0, 0, start, 0))


class FeedForward(nn.Module):
    """Two matrix products around a non-linearity, or three of a gated unit (Shazeer 2020)."""

    config: BlocksConfig
    dtype: Any
    transposed: bool = False  # kernels lie so

    @nn.compact
    def __call__(self, x_btd):
        c = self.config

        def layer(width: int, axes: tuple[str, str], name: str, stddev: float = 0.02):
            return dense(c, self.dtype, width, axes, name, stddev, self.transposed)

        def up(name: str):
            return layer(c.feed_forward_width, ("embed", "mlp"), name)(x_btd)

        if c.activation in _GATES:
            hidden_btf = _GATES[c.activation](up("gate")) * up("up")
        else:
            hidden_btf = activate(c, up("up"))
        hidden_btf = nn.with_logical_constraint(hidden_btf, ("batch", "time", "mlp"))
        return layer(c.d_model, ("mlp", "embed"), "down", residual_stddev(c))(hidden_btf)


def activate(config, x: jax.Array) -> jax.Array:
    """The non-linearity of a configuration; of a gated unit, that of its gate."""
    return (_ACTIVATIONS | _GATES)[config.activation](x)


class Block(nn.Module):
    """x + attention(norm(x)), then the same of the source and of feed_forward; or post-norm."""

    config: BlocksConfig
    dtype: Any
    train: bool
    causal: bool
    reads_source: bool
    transposed: bool = False  # kernels lie so

    @nn.compact
    def __call__(self, x_btd, rows: Rows, cache: LayerCache | None):
        c = self.config
        dropout = nn.Dropout(c.dropout_rate, deterministic=not self.train)

        def add(x_btd, name: str, function: Callable):
            normalize = norm(c, self.dtype, f"{name}_norm")
            if c.norm_order == "post":
                y_btd, kept = function(x_btd)
                return normalize(x_btd + dropout(y_btd)), kept
            y_btd, kept = function(normalize(x_btd))
            return x_btd + dropout(y_btd), kept

        def attention(name: str, kept: KeysValues | None, causal: bool, across: bool):
            layer = Attention(c, self.dtype, causal, across, self.transposed, name=name)
            return lambda x_btd: layer(x_btd, rows, kept)

        own, source = cache if cache is not None else (None, None)
        x_btd, own = add(x_btd, "attention", attention("attention", own, self.causal, False))
        if self.reads_source:
            name = "cross_attention"
            x_btd, source = add(x_btd, name, attention(name, source, False, True))
        feed_forward = FeedForward(c, self.dtype, self.transposed, name="feed_forward")
        x_btd, _ = add(x_btd, "feed_forward", lambda x_btd: (feed_forward(x_btd), None))
        x_btd = nn.with_logical_constraint(x_btd, ("batch", "time", None))
        return x_btd, None if cache is None else LayerCache(own, source)


def _keeps_products(primitive, *arguments, **params) -> bool:
    """Of products those with weights, of attention what cuDNN's backward pass reads: no scores."""
    keep_dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return primitive.name == PRIMITIVE or keep_dots(primitive, *arguments, **params)


def table(
    module: nn.Module,
    name: str,
    shape: tuple[int, int],
    axes: tuple[str, str],
    summed: tuple[int, ...] = (),
    head: bool = False,
) -> jax.Array:
    """Creates a parameter of `module` whose rows are looked up, or (`summed`) give logits."""
    normal = declared(nn.initializers.normal(0.02), axes, summed=summed, head=head)
    return module.param(name, normal, shape)  # type: ignore[return-value]  # Flax unboxes it


class Tower(nn.Module):
    """Embedded tokens through positions, all layers and a last norm: an encoder, or a decoder.

    The parameters of all layers are stacked on a leading `layers` axis, whether the layers are
    scanned or unrolled: a checkpoint of one serves the other. With caches, one a layer, it returns
    them extended.
    """

    config: BlocksConfig
    dtype: Any
    train: bool
    num_layers: int
    max_positions: int
    is_decoder: bool
    causal: bool  # that nothing later is seen; a decoder with a prefix is not
    reads_source: bool = False

    @nn.compact
    def __call__(self, x_btd, rows: Rows, caches: tuple[LayerCache, ...] | None = None):
        c = self.config
        time = x_btd.shape[1]
        if c.positions == "learned":
            shape = (self.max_positions, c.d_model)
            positions_td = table(self, "positions", shape, ("positions", "embed"))
            x_btd = x_btd + jnp.asarray(positions_td, self.dtype)[rows.positions_bt]
        elif c.positions == "sinusoidal":
            x_btd = x_btd + sinusoids(rows.positions_bt, c.d_model).astype(self.dtype)
        elif c.positions == "relative":
            shape = (c.relative_buckets, c.num_heads)
            bias_nh = table(self, "relative_bias", shape, ("positions", "heads"))
            keys_s = jnp.arange(time if caches is None else caches[0].own[0].shape[2])
            buckets_ts = relative_buckets(
                rows.start + jnp.arange(time), keys_s, *self._buckets(), not self.is_decoder
            )
            rows = rows._replace(bias_hts=jnp.moveaxis(bias_nh[buckets_ts], -1, 0))
        if c.embedding_norm:
            x_btd = norm(c, self.dtype, "embedding_norm")(x_btd)
        x_btd = nn.Dropout(c.dropout_rate, deterministic=not self.train)(x_btd)
        x_btd = nn.with_logical_constraint(x_btd, ("batch", "time", None))
        if caches is None:
            x_btd, _ = self._layers()(x_btd, rows, None)
        else:
            x_btd, caches = self._decode(x_btd, rows, caches)
        if c.norm_order == "pre":
            x_btd = norm(c, self.dtype, "final_norm")(x_btd)
        return x_btd, caches

    def _buckets(self) -> tuple[int, int]:
        return self.config.relative_buckets, self.config.relative_distance

    def _decode(self, x_btd, rows: Rows, caches: tuple[LayerCache, ...]):
        """Layer by layer, each cache an array of its own that is written where it lies."""
        layers, extended_caches = self.variables["params"]["layers"], []
        prepared = "0" in layers
        block = Block(
            self.config, self.dtype, False, False, self.reads_source, prepared, parent=None
        )
        for index, cache in enumerate(caches):
            layer = {"params": layer_of(layers, index)}
            x_btd, longer = block.apply(layer, x_btd, rows, cache)
            extended_caches.append(longer)
        return x_btd, tuple(extended_caches)

    def _layers(self):
        c = self.config
        block = Block
        if c.remat != "none":
            # Outside a loop XLA may find what is recomputed among what was computed, and keep it.
            keep = _keeps_products if c.remat == "dots" else None
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
