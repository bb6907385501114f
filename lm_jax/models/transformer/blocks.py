"""The block of a Transformer: attention and feed-forward around a residual stream.

Axes: b batch, t time, s time of what is attended to, d model width, h heads,
g key/value heads, k head width, l layers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.transformer.attention import (
    Scoring,
    Tokens,
    attend,
    attend_cache,
    attention_mask,
    attention_weights,
    near,
)
from lm_jax.models.transformer.blockwise_attention import Blocking, block_size, blockwise_attend
from lm_jax.models.transformer.config import BlocksConfig
from lm_jax.models.transformer.experts import MixtureOfExperts
from lm_jax.models.transformer.feed_forward import FeedForward
from lm_jax.models.transformer.flash_attention import attend_fused
from lm_jax.models.transformer.layers import (
    NORM_ORDERS,
    QK_NORMS,
    added,
    dense,
    norm,
    read_by_three,
    residual_stddev,
    split_heads,
)
from lm_jax.models.transformer.merged_biases import merged, merges_biases
from lm_jax.models.transformer.positions import POSITIONS
from lm_jax.models.transformer.ring_attention import ring_attend, time_axis
from lm_jax.models.transformer.rotary import rotate, rotation_of
from lm_jax.models.transformer.splash_attention import serves, splash_attend

_WHOLE = ("batch", None, "kv_heads", None)  # keys and values, gathered over time


class Keys(NamedTuple):
    """Which keys a query may read."""

    mask_bts: jax.Array | None = None  # None: all, or with cuDNN all earlier ones
    # Queries and keys from which masks are made block by block; None: the mask is whole.
    tokens: tuple[Tokens, Tokens] | None = None
    distance_bts: jax.Array | None = None  # for a window; None: there is none


class AttentionInputs(NamedTuple):
    """What attention reads besides the activations of its own tokens."""

    positions_bt: jax.Array  # inside the document
    own: Keys
    start: jax.Array | int = 0  # decoding: index in the cache of the first of these tokens
    bias_hts: jax.Array | None = None  # relative positions, the same in all layers
    source_bsd: jax.Array | None = None  # the encoder's output
    source: Keys = Keys()


KeysValues = tuple[jax.Array, jax.Array]  # a cache: [b, g, s, k] each


class LayerCache(NamedTuple):
    """Keys and values of the tokens and of the source that a layer has read."""

    own: KeysValues
    source: KeysValues | None


class Attention(nn.Module):
    """Attention of x_btd to itself, or (`across`) to the source; or to a cache of either."""

    config: BlocksConfig
    dtype: Any
    causal: bool = False
    across: bool = False
    transposed: bool = False  # kernels are stored transposed

    def setup(self):
        c = self.config
        self.query = self._projection(c.num_heads, "heads")
        self.key = self._projection(c.kv_heads, "kv_heads")
        self.value = self._projection(c.kv_heads, "kv_heads")
        self.query_norm, self.key_norm = norm(c, self.dtype), norm(c, self.dtype)
        self.scoring = Scoring(c.attention_scale, c.attention_soft_cap)
        axes = ("heads", "embed")
        stddev = residual_stddev(c)
        self.output = dense(c, self.dtype, c.d_model, axes, None, stddev, self.transposed)

    def _projection(self, count: int, axis: str):
        c = self.config
        width, axes = count * c.head_width, ("embed", axis)
        return dense(c, self.dtype, width, axes, transposed=self.transposed, bias=c.qkv_bias)

    def _normed_heads(self, y_btd, normalize: Callable, axis: str):
        c = self.config
        y_bthk = QK_NORMS[c.qk_norm](normalize, y_btd, c.head_width)
        return nn.with_logical_constraint(y_bthk, ("batch", "time", axis, None))

    def _queries(self, x_btd):
        return self._normed_heads(self.query(x_btd), self.query_norm, "heads")

    def keys_values(self, x_bsd, for_values_bsd=None) -> KeysValues:
        """Returns keys and values, [b, s, g, k] each, of one array or of one for each."""
        k_bsgk = self._normed_heads(self.key(x_bsd), self.key_norm, "kv_heads")
        values_bsd = self.value(x_bsd if for_values_bsd is None else for_values_bsd)
        v_bsgk = split_heads(values_bsd, self.config.head_width)
        return k_bsgk, nn.with_logical_constraint(v_bsgk, ("batch", "time", "kv_heads", None))

    def __call__(self, x_btd, inputs: AttentionInputs, cache: KeysValues | None, kind=None):
        if self.across:
            y_bthk, cache = self._to_source(x_btd, inputs, cache)
        else:
            y_bthk, cache = self._to_itself(x_btd, inputs, cache, kind)
        return self.output(y_bthk.reshape(*x_btd.shape[:2], -1)), cache

    def _to_source(self, x_btd, inputs: AttentionInputs, cache: KeysValues | None):
        q_bthk = self._queries(x_btd)
        if cache is not None:
            mask_bts = inputs.source.mask_bts
            return attend_cache(q_bthk, *cache, mask_bts, scoring=self.scoring), cache
        k_bsgk, v_bsgk = self.keys_values(inputs.source_bsd)
        return self._attend(q_bthk, k_bsgk, v_bsgk, inputs.source, None), None

    def _to_itself(self, x_btd, inputs: AttentionInputs, cache: KeysValues | None, kind):
        c, window = self.config, self.config.window(kind)
        for_queries_btd, for_keys_btd, for_values_btd = read_by_three(x_btd)
        q_bthk = self._queries(for_queries_btd)
        k_btgk, v_btgk = self.keys_values(for_keys_btd, for_values_btd)
        if POSITIONS[c.positions].rotates:
            rotation = rotation_of(c, kind)
            q_bthk = rotate(q_bthk, inputs.positions_bt, rotation)
            k_btgk = rotate(k_btgk, inputs.positions_bt, rotation)
        if cache is None:
            return self._attend(q_bthk, k_btgk, v_btgk, inputs.own, inputs.bias_hts, window), None
        k_bgsk = extended(cache[0], k_btgk, inputs.start)
        v_bgsk = extended(cache[1], v_btgk, inputs.start)
        mask_bts = near(inputs.own.mask_bts, inputs.own.distance_bts, window)
        given = (mask_bts, inputs.bias_hts, self.scoring)
        y_bthk = attend_cache(q_bthk, k_bgsk, v_bgsk, *given)
        return y_bthk, (k_bgsk, v_bgsk)

    def _attend(self, q_bthk, k_bsgk, v_bsgk, keys: Keys, bias_hts, window=None):
        """Attends without a cache, by the kernel that the mesh and the configuration choose."""
        mask_bts = near(keys.mask_bts, keys.distance_bts, window)
        tokens, scoring = keys.tokens, self.scoring
        if self.is_mutable_collection("intermediates"):
            map_mask_bts = attention_mask(*tokens, window) if tokens else mask_bts
            map_bhts = attention_weights(q_bthk, k_bsgk, map_mask_bts, bias_hts, scoring)
            self.sow("intermediates", "map", map_bhts)
        if tokens and time_axis():
            return ring_attend(scoring, q_bthk, k_bsgk, v_bsgk, bias_hts, *tokens, window)
        if tokens:
            return self._by_block(window, q_bthk, k_bsgk, v_bsgk, bias_hts, *tokens)
        if time_axis():
            k_bsgk, v_bsgk = (nn.with_logical_constraint(x, _WHOLE) for x in (k_bsgk, v_bsgk))
            return attend(q_bthk, k_bsgk, v_bsgk, mask_bts, bias_hts, scoring)
        if self.config.attention == "cudnn":  # whose partitioning rule cannot split time
            if mask_bts is not None:  # the kernel needs it split as the queries are
                mask_bts = jnp.broadcast_to(mask_bts, (len(q_bthk), *mask_bts.shape[1:]))
                mask_bts = nn.with_logical_constraint(mask_bts, ("batch", "time", None))
            given = (mask_bts, scoring.scale)
            return attend_fused(q_bthk, k_bsgk, v_bsgk, *given, causal=self.causal)
        return attend(q_bthk, k_bsgk, v_bsgk, mask_bts, bias_hts, scoring, causal=self.causal)

    def _by_block(self, window, q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys):
        given = (q_bthk, k_bsgk, v_bsgk, bias_hts, queries, keys)
        splashes = self.config.attention == "splash" and serves(q_bthk, k_bsgk, bias_hts, keys)
        size = block_size(max(q_bthk.shape[1], k_bsgk.shape[1]))

        def attend_within(window: int | None):
            if splashes:
                attend = partial(splash_attend, self.scoring, causal=self.causal, window=window)
                return lambda q, k, v, _, queries, keys: attend(q, k, v, queries, keys)
            return partial(blockwise_attend, Blocking(self.scoring, self.causal, window, size))

        width = self.config.sliding_window
        if window is None or isinstance(window, int):
            return attend_within(window)(*given)
        return jax.lax.cond(window == width, attend_within(width), attend_within(None), *given)


def extended(cache_bgsk: jax.Array, new_btgk: jax.Array, start: jax.Array | int) -> jax.Array:
    """Returns the cache with new keys or values written from index `start` on."""
    new_bgtk = new_btgk.transpose(0, 2, 1, 3).astype(cache_bgsk.dtype)
    # Without axes of length 1, as the loop of `decode_loop.advance` holds it, to write in place.
    single = tuple(axis for axis in (0, 1) if cache_bgsk.shape[axis] == 1)
    begin = (*[0] * (2 - len(single)), start, 0)
    longer = jax.lax.dynamic_update_slice(
        jnp.squeeze(cache_bgsk, single), jnp.squeeze(new_bgtk, single), begin
    )
    return longer.reshape(cache_bgsk.shape)


class Block(nn.Module):
    """x + attention(norm(x)), then likewise cross-attention and feed-forward; or in parallel.

    `NORM_ORDERS` says where the norms stand.
    """

    config: BlocksConfig
    dtype: Any
    train: bool
    causal: bool
    reads_source: bool
    transposed: bool = False  # kernels are stored transposed

    @nn.compact
    def __call__(self, x_btd, inputs: AttentionInputs, cache: LayerCache | None, kind=None):
        c = self.config
        dropout = nn.Dropout(c.dropout_rate, deterministic=not self.train)
        order, read_btd = NORM_ORDERS[c.norm_order], x_btd

        def normed(x_btd, name: str, suffix: str):
            return norm(c, self.dtype, f"{name}_{suffix}")(x_btd) if suffix else x_btd

        def add(x_btd, name: str, function: Callable):
            y_btd = read_btd if c.parallel_blocks else x_btd
            y_btd, kept = function(normed(y_btd, name, order.before))
            x_btd = added(x_btd, dropout(normed(y_btd, name, order.after)))
            return normed(x_btd, name, order.of_sum), kept

        def attention(name: str, kept: KeysValues | None, causal: bool, across: bool):
            module = Attention
            if kept is None and merges_biases(c) and not self.is_initializing():
                module = nn.map_variables(Attention, "params", partial(merged, c, self.dtype))
            layer = module(c, self.dtype, causal, across, self.transposed, name=name)
            return lambda x_btd: layer(x_btd, inputs, kept, kind)

        own, source = cache if cache is not None else (None, None)
        x_btd, own = add(x_btd, "attention", attention("attention", own, self.causal, False))
        if self.reads_source:
            name = "cross_attention"
            x_btd, source = add(x_btd, name, attention(name, source, False, True))
        feed_forward = self._feed_forward()
        x_btd, _ = add(x_btd, "feed_forward", lambda x_btd: (feed_forward(x_btd), None))
        x_btd = nn.with_logical_constraint(x_btd, ("batch", "time", None))
        self.sow("intermediates", "hidden", x_btd)
        return x_btd, None if cache is None else LayerCache(own, source)

    def _feed_forward(self) -> Callable[[jax.Array], jax.Array]:
        c, name = self.config, "feed_forward"
        if c.num_experts:
            return MixtureOfExperts(c, self.dtype, self.transposed, name=name)
        return FeedForward(c, self.dtype, c.feed_forward_width, self.transposed, name=name)
