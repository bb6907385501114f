"""The Transformer (Vaswani et al. 2017) as a decoder-only language model, in Flax Linen.

Axes: b batch, t time, d model width, f feed-forward width, h heads, g key/value heads,
k head width, v vocabulary, l layers.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.attention import attend, rotate, sinusoids, visible
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply


@dataclasses.dataclass
class TransformerConfig:
    """The shape of a decoder-only Transformer; the defaults are GPT-2's choices in miniature."""

    vocab_size: int = 0  # 0: the tokenizer's
    context_length: int = 256
    num_layers: int = 4
    d_model: int = 128
    num_heads: int = 4
    num_kv_heads: int = 0  # 0: num_heads; fewer is grouped-query attention
    d_ff: int = 0  # 0: 4 d_model, or 8/3 d_model rounded up to a multiple of 64 for swiglu
    norm: str = "layer_norm"  # layer_norm, rms_norm
    activation: str = "gelu_tanh"  # gelu (exact), gelu_tanh, relu, swiglu
    positions: str = "learned"  # learned, sinusoidal, rotary
    rotary_base: float = 10_000.0
    tie_embeddings: bool = True
    use_bias: bool = True
    dropout_rate: float = 0.0  # after the embedding, each attention and each feed-forward block
    logit_soft_cap: float = 0.0  # 0: off; else cap * tanh(logits / cap)
    scan_layers: bool = False  # one compiled layer in a loop: compiles faster, steps slower
    remat: str = "none"  # none, dots (keep matrix products), full: memory against recomputation

    @property
    def head_width(self) -> int:
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def feed_forward_width(self) -> int:
        if self.d_ff:
            return self.d_ff
        return (
            64 * math.ceil(self.d_model / 24) if self.activation == "swiglu" else 4 * self.d_model
        )

    def validate(self) -> None:
        """Raises ValueError for a shape or a choice that cannot be built."""
        for field, choices in _CHOICES.items():
            if (given := getattr(self, field)) not in choices:
                raise ValueError(
                    f"model.{field} is {given!r}; expected one of {', '.join(choices)}"
                )
        for field in ("context_length", "num_layers", "d_model", "num_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"model.{field} is {getattr(self, field)}; expected at least 1")
        for field in ("vocab_size", "num_kv_heads", "d_ff", "logit_soft_cap"):
            if getattr(self, field) < 0:
                raise ValueError(f"model.{field} is {getattr(self, field)}; expected 0 or more")
        if self.d_model % self.num_heads:
            raise ValueError(
                f"model.d_model {self.d_model} is not a multiple of model.num_heads "
                f"{self.num_heads}; change one of them"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"model.num_heads {self.num_heads} is not a multiple of model.num_kv_heads "
                f"{self.kv_heads}; change one of them"
            )
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(
                f"rotary positions turn pairs: the head width {self.head_width} "
                "(d_model / num_heads) must be even"
            )
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"sinusoidal positions need an even d_model, not {self.d_model}")
        if not self.rotary_base > 0:
            raise ValueError(f"model.rotary_base is {self.rotary_base}; expected above 0")
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(f"model.dropout_rate is {self.dropout_rate}; expected 0 <= rate < 1")


_CHOICES = {
    "norm": ("layer_norm", "rms_norm"),
    "activation": ("gelu", "gelu_tanh", "relu", "swiglu"),
    "positions": ("learned", "sinusoidal", "rotary"),
    "remat": ("none", "dots", "full"),
}


class Cache(NamedTuple):
    """The keys and values of the tokens so far, and how many there are."""

    k_blsgk: jax.Array
    v_blsgk: jax.Array
    length: jax.Array  # int32 scalar, the same for every sequence


class Rows(NamedTuple):
    """What attention needs to know of a batch besides its activations."""

    positions_bt: jax.Array  # inside the document
    mask_bts: jax.Array
    start: jax.Array | int = 0  # decoding: where in the cache these tokens belong


def _dense(config, dtype, features: int, axes: tuple[str, str], name: str, stddev: float = 0.02):
    return nn.Dense(
        features,
        use_bias=config.use_bias,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(nn.initializers.normal(stddev), axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[1:]),
        name=name,
    )


def _norm(config, dtype, name: str):
    scale = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
    if config.norm == "rms_norm":
        return nn.RMSNorm(epsilon=1e-5, dtype=dtype, scale_init=scale, name=name)
    bias = nn.with_logical_partitioning(nn.initializers.zeros, ("norm",))
    return nn.LayerNorm(
        epsilon=1e-5,
        use_bias=config.use_bias,
        dtype=dtype,
        scale_init=scale,
        bias_init=bias,
        name=name,
    )


class Attention(nn.Module):
    """Causal self-attention over x_btd, or over a cache that x_btd extends."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, x_btd, rows: Rows, cache):
        c = self.config

        def project(name: str, count: int, axis: str):
            y_btd = _dense(c, self.dtype, count * c.head_width, ("embed", axis), name)(x_btd)
            y_bthk = y_btd.reshape(*x_btd.shape[:2], count, c.head_width)
            return nn.with_logical_constraint(y_bthk, ("batch", "time", axis, None))

        q_bthk = project("query", c.num_heads, "heads")
        k_btgk = project("key", c.kv_heads, "kv_heads")
        v_btgk = project("value", c.kv_heads, "kv_heads")
        if c.positions == "rotary":
            q_bthk = rotate(q_bthk, rows.positions_bt, c.rotary_base)
            k_btgk = rotate(k_btgk, rows.positions_bt, c.rotary_base)
        if cache is not None:
            at = (0, rows.start, 0, 0)
            k_btgk = jax.lax.dynamic_update_slice(cache[0], k_btgk.astype(cache[0].dtype), at)
            v_btgk = jax.lax.dynamic_update_slice(cache[1], v_btgk.astype(cache[1].dtype), at)
            cache = (k_btgk, v_btgk)
        y_bthk = attend(q_bthk, k_btgk, v_btgk, rows.mask_bts)
        residual_stddev = 0.02 / math.sqrt(2 * c.num_layers)  # Radford et al. 2019, section 2.3
        output = _dense(c, self.dtype, c.d_model, ("heads", "embed"), "output", residual_stddev)
        return output(y_bthk.reshape(*x_btd.shape[:2], -1)), cache


class FeedForward(nn.Module):
    """Two matrix products around a non-linearity, or SwiGLU's three (Shazeer 2020)."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, x_btd):
        c = self.config

        def up(name: str):
            return _dense(c, self.dtype, c.feed_forward_width, ("embed", "mlp"), name)(x_btd)

        if c.activation == "swiglu":
            hidden_btf = nn.silu(up("gate")) * up("up")
        else:
            hidden_btf = _ACTIVATIONS[c.activation](up("up"))
        hidden_btf = nn.with_logical_constraint(hidden_btf, ("batch", "time", "mlp"))
        residual_stddev = 0.02 / math.sqrt(2 * c.num_layers)
        return _dense(c, self.dtype, c.d_model, ("mlp", "embed"), "down", residual_stddev)(
            hidden_btf
        )


_ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}


class Block(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    config: TransformerConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, x_btd, rows: Rows, cache):
        c = self.config
        dropout = nn.Dropout(c.dropout_rate, deterministic=not self.train)
        y_btd, cache = Attention(c, self.dtype, name="attention")(
            _norm(c, self.dtype, "attention_norm")(x_btd), rows, cache
        )
        x_btd = x_btd + dropout(y_btd)
        y_btd = FeedForward(c, self.dtype, name="feed_forward")(
            _norm(c, self.dtype, "feed_forward_norm")(x_btd)
        )
        x_btd = x_btd + dropout(y_btd)
        return nn.with_logical_constraint(x_btd, ("batch", "time", None)), cache


class Transformer(nn.Module):
    """Tokens [b, t] to float32 logits [b, t, v]; with a cache, also the extended cache.

    The parameters of all layers are stacked on a leading `layers` axis, whether the layers are
    scanned or unrolled: a checkpoint of one serves the other.
    """

    config: TransformerConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, tokens_bt, rows: Rows, cache):
        c = self.config
        normal = nn.initializers.normal(0.02)
        embedding_vd = self.param(
            "embedding",
            nn.with_logical_partitioning(normal, ("vocab", "embed")),
            (c.vocab_size, c.d_model),
        )
        x_btd = jnp.asarray(embedding_vd, self.dtype)[tokens_bt]
        if c.positions == "learned":
            positions_td = self.param(
                "positions",
                nn.with_logical_partitioning(normal, ("positions", "embed")),
                (c.context_length, c.d_model),
            )
            x_btd = x_btd + jnp.asarray(positions_td, self.dtype)[rows.positions_bt]
        elif c.positions == "sinusoidal":
            x_btd = x_btd + sinusoids(rows.positions_bt, c.d_model).astype(self.dtype)
        x_btd = nn.Dropout(c.dropout_rate, deterministic=not self.train)(x_btd)
        x_btd = nn.with_logical_constraint(x_btd, ("batch", "time", None))

        x_btd, cache = self._layers()(x_btd, rows, cache)

        x_btd = _norm(c, self.dtype, "final_norm")(x_btd)
        if c.tie_embeddings:
            output_vd = embedding_vd
        else:
            output_vd = self.param(
                "output",
                nn.with_logical_partitioning(normal, ("vocab", "embed")),
                (c.vocab_size, c.d_model),
            )
        logits_btv = jnp.einsum(
            "btd,vd->btv",
            x_btd,
            jnp.asarray(output_vd, self.dtype),
            preferred_element_type=jnp.float32,
        )
        if c.logit_soft_cap:
            logits_btv = c.logit_soft_cap * jnp.tanh(logits_btv / c.logit_soft_cap)
        return logits_btv, cache

    def _layers(self):
        c = self.config
        block = Block
        if c.remat != "none":
            keep_dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            block = nn.remat(
                Block, prevent_cse=False, policy=keep_dots if c.remat == "dots" else None
            )
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 1),
            out_axes=1,
            length=c.num_layers,
            unroll=1 if c.scan_layers else c.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stack(c, self.dtype, self.train, name="layers")


def transformer(config: TransformerConfig, dtype: Any = jnp.float32) -> Model:
    """The decoder-only Transformer of a configuration; `dtype` is that of its computation.

    Raises:
      ValueError: the configuration names an unknown choice or an impossible shape.
    """
    config.validate()
    if config.vocab_size < 1:
        raise ValueError("model.vocab_size is 0: give the size of the vocabulary")

    def rows_of(batch: Batch) -> Rows:
        inputs_bt = batch["inputs"]
        time_bt = jnp.broadcast_to(jnp.arange(inputs_bt.shape[1]), inputs_bt.shape)
        segments_bt = batch.get("segments")
        segments = None if segments_bt is None else (segments_bt, segments_bt)
        # One document a row needs one mask for all rows.
        index_bt = time_bt[:1] if segments is None else time_bt
        return Rows(batch.get("positions", time_bt), visible(index_bt, index_bt, segments))

    def init(key: jax.Array, batch: Batch) -> Variables:
        module = Transformer(config, dtype, train=False)
        return module.init(key, batch["inputs"], rows_of(batch), None)

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        module = Transformer(config, dtype, train)
        rngs = {} if key is None else {"dropout": key}
        logits_btv, _ = module.apply(variables, batch["inputs"], rows_of(batch), None, rngs=rngs)
        return logits_btv, {}

    def start(variables: Variables, batch_size: int, max_length: int) -> Cache:
        if config.positions == "learned" and max_length > config.context_length:
            raise ValueError(
                f"{max_length} tokens asked of a model with learned positions up to "
                f"{config.context_length}; ask for fewer"
            )
        shape = (batch_size, config.num_layers, max_length, config.kv_heads, config.head_width)
        return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.int32(0))

    def step(variables: Variables, carry: Cache, tokens: jax.Array):
        batch_size, _, max_length = carry.k_blsgk.shape[:3]
        now_bt = jnp.full((batch_size, 1), carry.length)
        rows = Rows(now_bt, visible(now_bt[:1], jnp.arange(max_length)[None], None), carry.length)
        module = Transformer(config, dtype, train=False)
        cache = (carry.k_blsgk, carry.v_blsgk)
        logits_btv, cache = module.apply(variables, tokens[:, None], rows, cache)  # type: ignore
        return logits_btv[:, 0], Cache(*cache, carry.length + 1)

    return Model(init, apply, loss_from_apply(apply), start, step)
