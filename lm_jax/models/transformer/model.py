"""The Transformer (Vaswani et al. 2017) in three assemblies: decoder, encoder, and both.

Axes: b batch, t time, s source time, d model width, v vocabulary, c classes, g key/value heads,
k head width, l layers, h heads.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.models.chunked_cross_entropy import chunked_cross_entropy
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Losses, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared
from lm_jax.models.transformer.attention import Tokens, sees, visible
from lm_jax.models.transformer.blocks import (
    Attention,
    LayerCache,
    Rows,
    Tower,
    activate,
    dense,
    layer_of,
    norm,
    product,
    table,
    unstacked,
)
from lm_jax.models.transformer.config import (
    BlocksConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    TransformerConfig,
    check_mesh,
)
from lm_jax.models.transformer.flash_attention import kernel
from lm_jax.models.transformer.ring_attention import can_turn, time_axis


class Cache(NamedTuple):
    """What has been read, a layer at a time, and how many tokens that is."""

    layers: tuple[LayerCache, ...]
    length: jax.Array  # int32 scalar, the same for every sequence
    source_mask_bs: jax.Array | None = None


def _embedding(module: Any) -> jax.Array:
    c = module.config
    return table(module, "embedding", (c.vocab_size, c.d_model), ("vocab", "embed"))


def _embed(module: Any, embedding_vd: jax.Array, tokens_bt: jax.Array) -> jax.Array:
    x_btd = jnp.asarray(embedding_vd, module.dtype)[tokens_bt]
    return x_btd * math.sqrt(module.config.d_model) if module.config.scale_embeddings else x_btd


def _head(
    module: Any,
    embedding_vd: jax.Array,
    x_btd: jax.Array,
    targets_bt: Any = None,
    bias_v: Any = None,
    head: bool = False,
) -> jax.Array | Losses:
    """Logits [b, t, v], float32; or of targets the losses, without ever holding the logits."""
    c = module.config
    output_vd = embedding_vd
    if not c.tie_embeddings:
        shape, axes = (c.vocab_size, c.d_model), ("vocab", "embed")
        output_vd = table(module, "output", shape, axes, summed=(-1,), head=head)
    if c.logit_scale != 1.0:
        x_btd = x_btd * c.logit_scale
    if targets_bt is not None:
        return chunked_cross_entropy(
            x_btd, output_vd, targets_bt, c.loss_chunks, soft_cap=c.logit_soft_cap, bias_v=bias_v
        )
    logits_btv = product(x_btd, jnp.asarray(output_vd, module.dtype).T, jnp.float32)
    if c.logit_soft_cap:
        logits_btv = c.logit_soft_cap * jnp.tanh(logits_btv / c.logit_soft_cap)
    return logits_btv if bias_v is None else logits_btv + bias_v


class Decoder(nn.Module):
    """Tokens [b, t] to float32 logits [b, t, v], or to losses of targets; and extended caches."""

    config: TransformerConfig
    dtype: Any
    train: bool
    causal: bool = True

    def setup(self):
        c = self.config
        self.tower = Tower(
            c, self.dtype, self.train, c.num_layers, c.context_length, True, self.causal
        )
        nn.share_scope(self, self.tower)

    @nn.compact
    def __call__(self, tokens_bt, rows: Rows, caches=None, targets_bt=None):
        embedding_vd = _embedding(self)
        x_btd, caches = self.tower(_embed(self, embedding_vd, tokens_bt), rows, caches)
        return _head(self, embedding_vd, x_btd, targets_bt), caches


class Encoder(nn.Module):
    """Tokens [b, t] to float32 logits [b, t, v] of each, or [b, c] of the text; and None."""

    config: EncoderConfig
    dtype: Any
    train: bool

    def setup(self):
        c = self.config
        self.tower = Tower(c, self.dtype, self.train, c.num_layers, c.context_length, False, False)
        nn.share_scope(self, self.tower)

    @nn.compact
    def __call__(self, tokens_bt, rows: Rows, segments_bt, types_bt, targets_bt=None):
        c = self.config
        embedding_vd = _embedding(self)
        x_btd = _embed(self, embedding_vd, tokens_bt)
        if c.num_segment_types:
            shape = (c.num_segment_types, c.d_model)
            types_nd = table(self, "segment_types", shape, ("positions", "embed"))
            x_btd = x_btd + jnp.asarray(types_nd, self.dtype)[types_bt]
        x_btd, _ = self.tower(x_btd, rows)
        if c.num_classes:
            return ClassHead(c, self.dtype, self.train, name="head")(x_btd, segments_bt), None
        return MaskedHead(c, self.dtype, name="head")(x_btd, embedding_vd, targets_bt), None


class MaskedHead(nn.Module):
    """Activations x_btd to logits [b, t, v] of the tokens that stood there (BERT's MLM head)."""

    config: EncoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, x_btd, embedding_vd, targets_bt):
        c = self.config
        x_btd = dense(c, self.dtype, c.d_model, ("embed", "mlp"), "transform", head=True)(x_btd)
        x_btd = norm(c, self.dtype, "norm", head=True)(activate(c, x_btd))
        zeros = declared(nn.initializers.zeros, ("vocab",), head=True)
        bias_v: Any = self.param("bias", zeros, (c.vocab_size,))
        return _head(self, embedding_vd, x_btd, targets_bt, bias_v, head=True)


class ClassHead(nn.Module):
    """Activations x_btd to logits [b, c] of the text, which is where segments are not 0."""

    config: EncoderConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, x_btd, segments_bt):
        c = self.config
        if c.pooling == "first":
            pooler = dense(c, self.dtype, c.d_model, ("embed", "mlp"), "pooler", head=True)
            pooled_bd = nn.tanh(pooler(x_btd[:, 0]))
        else:
            is_text_bt1 = (segments_bt > 0)[..., None]
            total_bd = jnp.sum(jnp.where(is_text_bt1, x_btd, 0), axis=1, dtype=jnp.float32)
            pooled_bd = total_bd / jnp.maximum(1, jnp.sum(is_text_bt1, axis=1))
        pooled_bd = nn.Dropout(c.dropout_rate, deterministic=not self.train)(pooled_bd)
        classes = dense(c, self.dtype, c.num_classes, ("embed", "vocab"), "classes", head=True)
        return classes(pooled_bd.astype(self.dtype)).astype(jnp.float32)


class EncoderDecoder(nn.Module):
    """Tokens [b, t] and a source to float32 logits [b, t, v], from shared embeddings."""

    config: EncoderDecoderConfig
    dtype: Any
    train: bool

    def setup(self):
        c = self.config
        common = (c, self.dtype, self.train)
        self.encoder = Tower(*common, c.encoder_layers, c.source_length, False, False)
        self.decoder = Tower(*common, c.num_layers, c.context_length, True, True, True)

    @nn.compact
    def __call__(
        self, tokens_bt, rows: Rows, source_bs=None, source_rows=None, caches=None, targets_bt=None
    ):
        embedding_vd = _embedding(self)
        if source_bs is not None:
            rows = rows._replace(source_bsd=self._encode(embedding_vd, source_bs, source_rows))
        x_btd, caches = self.decoder(_embed(self, embedding_vd, tokens_bt), rows, caches)
        return _head(self, embedding_vd, x_btd, targets_bt), caches

    def _encode(self, embedding_vd, source_bs, source_rows):
        return self.encoder(_embed(self, embedding_vd, source_bs), source_rows)[0]

    def encode(self, source_bs, source_rows: Rows):
        """What the decoder reads of a source, [b, s, d]."""
        return self._encode(self.variables["params"]["embedding"], source_bs, source_rows)


def _time(tokens_bt: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(tokens_bt.shape[1]), tokens_bt.shape)


def _turns(config: BlocksConfig, *tokens: jax.Array) -> bool:
    """Whether attention is a ring over devices, which makes its masks itself."""
    return config.context_parallel == "ring" and can_turn(*(x_bt.shape[1] for x_bt in tokens))


def _decoder_rows(config: BlocksConfig, batch: Batch, ring: bool) -> Rows:
    """Each token sees the earlier ones of its segment, and the prefix of its segment."""
    time_bt, segments_bt = _time(batch["inputs"]), batch.get("segments")
    prefix_bt, positions_bt = batch.get("prefix"), batch.get("positions", time_bt)
    if ring:
        tokens = Tokens(time_bt, segments_bt, prefix_bt)
        return Rows(positions_bt, None, ring=(tokens, tokens))
    fused = config.attention == "cudnn" and not time_axis()
    if fused and segments_bt is None and prefix_bt is None:
        return Rows(positions_bt, None)
    # One document a row needs one mask for all rows.
    index_bt = time_bt[:1] if segments_bt is None and prefix_bt is None else time_bt
    tokens = Tokens(index_bt, segments_bt, prefix_bt)
    return Rows(positions_bt, sees(tokens, tokens))


def _encoder_rows(
    tokens_bt: jax.Array,
    segments_bt: jax.Array | None,
    positions_bt: jax.Array | None,
    ring: bool = False,
) -> Rows:
    """Each token sees all of its segment; padding is segment 0."""
    positions_bt = _time(tokens_bt) if positions_bt is None else positions_bt
    tokens = Tokens(segments_bt=segments_bt)
    if ring:
        return Rows(positions_bt, None, ring=(tokens, tokens))
    return Rows(positions_bt, sees(tokens, tokens))


# What a model of each configuration is called with: (configuration, dtype, train, batch) ->
# module, its arguments.
def _decoder_call(config: TransformerConfig, dtype: Any, train: bool, batch: Batch):
    module = Decoder(config, dtype, train, causal="prefix" not in batch)
    ring = _turns(config, batch["inputs"])
    return module, (batch["inputs"], _decoder_rows(config, batch, ring))


def _encoder_call(config: EncoderConfig, dtype: Any, train: bool, batch: Batch):
    inputs_bt, segments_bt = batch["inputs"], batch.get("segments")
    ring = _turns(config, inputs_bt)
    rows = _encoder_rows(inputs_bt, segments_bt, batch.get("positions"), ring)
    ones, zeros = jnp.ones_like(inputs_bt), jnp.zeros_like(inputs_bt)
    is_text_bt = ones if segments_bt is None else segments_bt
    types_bt = batch.get("segment_types", zeros)
    return Encoder(config, dtype, train), (inputs_bt, rows, is_text_bt, types_bt)


def _encoder_decoder_call(config: EncoderDecoderConfig, dtype: Any, train: bool, batch: Batch):
    source_bs, segments_bs = batch["source"], batch.get("source_segments")
    ring = _turns(config, batch["inputs"], source_bs)
    source_rows = _encoder_rows(source_bs, segments_bs, batch.get("source_positions"), ring)
    rows = _decoder_rows(config, batch, ring)
    segments_bt = batch.get("segments", jnp.ones_like(batch["inputs"]))
    across = (Tokens(segments_bt=segments_bt), Tokens(segments_bt=segments_bs))
    if ring:
        rows = rows._replace(source_ring=across)
    else:
        rows = rows._replace(source_mask_bts=sees(*across))
    return EncoderDecoder(config, dtype, train), (batch["inputs"], rows, source_bs, source_rows)


_CALLS: dict[type, Callable] = {
    TransformerConfig: _decoder_call,
    EncoderConfig: _encoder_call,
    EncoderDecoderConfig: _encoder_decoder_call,
}


def _model(config: BlocksConfig, dtype: Any) -> Model:
    """The parts of a `Model` in which the three do not differ."""
    config.validate()
    if config.vocab_size < 1:
        raise UserError("model.vocab_size is 0: give the size of the vocabulary")
    config = dataclasses.replace(config, attention=kernel(config, dtype))
    call = _CALLS[type(config)]

    def init(key: jax.Array, batch: Batch) -> Variables:
        module, arguments = call(config, dtype, False, batch)
        return module.init(key, *arguments)

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool,
        key: jax.Array | None = None,
        targets: jax.Array | None = None,
    ):
        module, arguments = call(config, dtype, train, batch)
        rngs = {} if key is None else {"dropout": key}
        return module.apply(variables, *arguments, targets_bt=targets, rngs=rngs)[0], {}

    def chunked_loss(variables: Variables, batch: Batch, *, train: bool, key: Any = None):
        return apply(variables, batch, train=train, key=key, targets=batch["targets"])

    whole = config.loss_chunks == 1 or getattr(config, "num_classes", 0) > 0
    return Model(init, apply, loss_from_apply(apply) if whole else chunked_loss)


def _generating(config: TransformerConfig | EncoderDecoderConfig, dtype: Any, model: Model, cls):
    """The model with `step` and `read`, which are one function, of one or of several tokens."""

    def read(variables: Variables, carry: Cache, tokens: jax.Array):
        layers, start, source_mask_bs = carry
        now_t = start + jnp.arange(tokens.shape[1])
        keys_s = jnp.arange(layers[0].own[0].shape[2])
        positions_bt = jnp.broadcast_to(now_t, tokens.shape)
        rows = Rows(positions_bt, visible(now_t[None], keys_s[None]), start)
        if source_mask_bs is not None:
            rows = rows._replace(source_mask_bts=source_mask_bs[:, None])
        module = cls(config, dtype, train=False)
        logits_btv, layers = module.apply(variables, tokens, rows, caches=layers)
        return logits_btv[:, -1], Cache(layers, start + tokens.shape[1], source_mask_bs)

    def step(variables: Variables, carry: Cache, tokens: jax.Array):
        return read(variables, carry, tokens[:, None])

    def prepare(variables: Variables) -> Variables:
        params = dict(variables["params"])
        if isinstance(config, EncoderDecoderConfig):
            decoder = params["decoder"]
            params["decoder"] = {**decoder, "layers": unstacked(decoder["layers"])}
        else:
            params["layers"] = unstacked(params["layers"])
        return {**variables, "params": params}

    return model._replace(step=step, read=read, prepare=prepare)


def _empty(config: BlocksConfig, dtype: Any, batch_size: int, max_length: int) -> jax.Array:
    """The keys or the values of a layer before the first token."""
    if config.positions == "learned" and max_length > config.context_length:
        raise UserError(
            f"{max_length} tokens asked of a model with learned positions up to "
            f"{config.context_length}; ask for fewer"
        )
    return jnp.zeros((batch_size, config.kv_heads, max_length, config.head_width), dtype)


def transformer(config: TransformerConfig, dtype: Any = jnp.float32) -> Model:
    """The decoder-only Transformer of a configuration; `dtype` is that of its computation.

    Where a batch has `prefix` [b, t], the tokens that it names are seen by all of their segment.

    Raises:
      UserError: the configuration names an unknown choice or an impossible shape.
    """

    def start(variables: Variables, batch_size: int, max_length: int) -> Cache:
        empty = _empty(config, dtype, batch_size, max_length)
        layers = (LayerCache((empty, empty), None),) * config.num_layers
        return Cache(layers, jnp.int32(0))

    return _generating(config, dtype, _model(config, dtype), Decoder)._replace(start=start)


def encoder(config: EncoderConfig, dtype: Any = jnp.float32) -> Model:
    """The encoder of a configuration; it does not generate.

    Logits are [b, t, v], or [b, c] with `num_classes`. Tokens see all of their segment; without
    `segments`, each other. The text that is pooled is all that is not padding.

    Raises:
      UserError: the configuration names an unknown choice or an impossible shape.
    """
    return _model(config, dtype)


def encoder_decoder(config: EncoderDecoderConfig, dtype: Any = jnp.float32) -> Model:
    """The encoder-decoder of a configuration.

    Logits are [b, t, v]; the tokens of a segment see the source of the same segment. Without
    `source_segments` they see all of their row's source.

    Raises:
      UserError: the configuration names an unknown choice or an impossible shape.
    """

    def start(
        variables: Variables, batch_size: int, max_length: int, source: Mapping[str, jax.Array]
    ) -> Cache:
        source_bs = source["source"]
        if config.positions == "learned" and source_bs.shape[1] > config.source_length:
            raise UserError(
                f"a source of {source_bs.shape[1]} tokens given to a model with learned positions "
                f"up to {config.source_length}; give a shorter one"
            )
        segments_bs = source.get("source_segments", jnp.ones_like(source_bs))
        rows = _encoder_rows(source_bs, segments_bs, source.get("source_positions"))
        module = EncoderDecoder(config, dtype, train=False)
        encoded_bsd = module.apply(variables, source_bs, rows, method="encode")
        attention = Attention(config, dtype, across=True)
        decoder = variables["params"]["decoder"]["layers"]
        empty, layers = _empty(config, dtype, batch_size, max_length), []
        for index in range(config.num_layers):
            layer = {"params": layer_of(decoder, index)["cross_attention"]}
            pair: Any = attention.apply(layer, encoded_bsd, method="keys_values")
            k_bgsk, v_bgsk = (x_bsgk.transpose(0, 2, 1, 3) for x_bsgk in pair)
            layers.append(LayerCache((empty, empty), (k_bgsk, v_bgsk)))
        return Cache(tuple(layers), jnp.int32(0), segments_bs > 0)

    model = _generating(config, dtype, _model(config, dtype), EncoderDecoder)
    return model._replace(start=start)


def attention_maps(
    config: BlocksConfig, variables: Variables, batch: Batch, dtype: Any = jnp.float32
) -> dict[str, jax.Array]:
    """Who attends to whom: float32 [b, l, h, t, s] under `encoder`, `decoder`, `cross`.

    Only the names which the model has; each row of a map sums to one.
    """
    config = dataclasses.replace(config, attention="xla")
    module, arguments = _CALLS[type(config)](config, dtype, False, batch)
    _, kept = module.apply(variables, *arguments, mutable=["intermediates"])
    kept = kept["intermediates"]
    towers = {"decoder": kept}
    if isinstance(config, EncoderConfig):
        towers = {"encoder": kept}
    elif isinstance(config, EncoderDecoderConfig):
        towers = {name: kept[name] for name in ("encoder", "decoder")}
    maps = {name: tower["layers"]["attention"]["map"] for name, tower in towers.items()}
    if isinstance(config, EncoderDecoderConfig):
        maps["cross"] = kept["decoder"]["layers"]["cross_attention"]["map"]
    return {name: map_lbhts.swapaxes(0, 1) for name, (map_lbhts,) in maps.items()}


_COMMON: dict[str, Any] = {
    "splits_time": True,
    "check_mesh": check_mesh,
    "for_low_memory": lambda config: dataclasses.replace(config, scan_layers=True, remat="full"),
    "for_any_device": lambda config: dataclasses.replace(config, attention="auto"),
    "attention_maps": lambda config: functools.partial(attention_maps, config),
}
DECODER = Family(TransformerConfig, transformer, ("causal_lm", "prefix_lm", "seq2seq"), **_COMMON)
ENCODER = Family(
    EncoderConfig, encoder, ("masked_lm", "classification"), has_mask_id=True, **_COMMON
)
ENCODER_DECODER = Family(
    EncoderDecoderConfig,
    encoder_decoder,
    ("seq2seq", "span_corruption"),
    has_encoder=True,
    **_COMMON,
)
