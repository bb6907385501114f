"""The bidirectional encoder, such as BERT: it predicts masked tokens, or classifies texts.

Axes: b batch, t time, d model width, v vocabulary, c classes, n segment types.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model
from lm_jax.models.parameters import declared
from lm_jax.models.transformer.assembly import (
    DECLARED,
    attention_per_token,
    attention_windows_of,
    embed,
    embedding_table,
    encoder_inputs,
    expert_loads_of,
    hidden_states_of,
    logits_or_losses,
    make_model,
    maps_of,
    masks_by_block,
)
from lm_jax.models.transformer.blocks import AttentionInputs
from lm_jax.models.transformer.config import EncoderConfig
from lm_jax.models.transformer.layers import activate, dense, norm, table
from lm_jax.models.transformer.pooling import POOLINGS
from lm_jax.models.transformer.stack import TransformerStack


class Encoder(nn.Module):
    """Tokens [b, t] to float32 logits [b, t, v] of each, or [b, c] of the text; and None."""

    config: EncoderConfig
    dtype: Any
    train: bool

    def setup(self):
        c = self.config
        self.stack = TransformerStack(
            c, self.dtype, self.train, c.num_layers, c.context_length, False, False
        )
        nn.share_scope(self, self.stack)

    @nn.compact
    def __call__(self, tokens_bt, inputs: AttentionInputs, segments_bt, types_bt, targets_bt=None):
        c = self.config
        embedding_vd = embedding_table(self)
        x_btd = embed(self, embedding_vd, tokens_bt)
        if c.num_segment_types:
            shape = (c.num_segment_types, c.d_model)
            types_nd = table(self, "segment_types", shape, ("types", "embed"))
            x_btd = x_btd + jnp.asarray(types_nd, self.dtype)[types_bt]
        x_btd, _ = self.stack(x_btd, inputs)
        if c.num_classes:
            return ClassHead(c, self.dtype, self.train, name="head")(x_btd, segments_bt), None
        return MaskedHead(c, self.dtype, self.train, name="head")(
            x_btd, embedding_vd, targets_bt
        ), None


class MaskedHead(nn.Module):
    """Activations x_btd to logits [b, t, v] of the tokens that stood there (BERT's MLM head)."""

    config: EncoderConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, x_btd, embedding_vd, targets_bt):
        c = self.config
        x_btd = dense(c, self.dtype, c.d_model, ("embed", "mlp"), "transform", head=True)(x_btd)
        x_btd = norm(c, self.dtype, "norm", head=True)(activate(c, x_btd))
        zeros = declared(nn.initializers.zeros, ("vocab",), head=True)
        bias_v: Any = self.param("bias", zeros, (c.vocab_size,))
        return logits_or_losses(self, embedding_vd, x_btd, targets_bt, bias_v, head=True)


class ClassHead(nn.Module):
    """Activations x_btd to logits [b, c] of the text, which is where segments are not 0."""

    config: EncoderConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, x_btd, segments_bt):
        c = self.config
        pooled_bd = POOLINGS[c.pooling](c, self.dtype, x_btd, segments_bt)
        pooled_bd = nn.Dropout(c.dropout_rate, deterministic=not self.train)(pooled_bd)
        classes = dense(c, self.dtype, c.num_classes, ("embed", "vocab"), "classes", head=True)
        return classes(pooled_bd.astype(self.dtype)).astype(jnp.float32)


def _call(config: EncoderConfig, dtype: Any, train: bool, batch: Batch):
    inputs_bt, segments_bt = batch["inputs"], batch.get("segments")
    by_block = masks_by_block(config, inputs_bt)
    inputs = encoder_inputs(config, inputs_bt, segments_bt, batch.get("positions"), by_block)
    ones, zeros = jnp.ones_like(inputs_bt), jnp.zeros_like(inputs_bt)
    is_text_bt = ones if segments_bt is None else segments_bt
    types_bt = batch.get("segment_types", zeros)
    return Encoder(config, dtype, train), (inputs_bt, inputs, is_text_bt, types_bt)


def encoder(config: EncoderConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the encoder of a configuration; it does not generate.

    Logits are [b, t, v], or [b, c] with `num_classes`. Tokens read their whole segment or, without
    `segments`, the whole row. Pooling covers everything that is not padding.

    Raises:
      UserError: the size of the vocabulary is not given.
    """
    return make_model(config, dtype, _call, chunks_loss=not config.num_classes)


FAMILY = Family(
    EncoderConfig,
    encoder,
    ("masked_lm", "classification"),
    has_mask_id=True,
    mask_id=lambda config: config.mask_id,
    classifies=lambda config: bool(config.num_classes),
    attention_per_token=lambda config: None if config.num_classes else attention_per_token(config),
    attention_maps=lambda config: maps_of(config, _call, {"encoder": ("layers", "attention")}),
    attention_windows=lambda config: attention_windows_of(config, {"encoder": config.num_layers}),
    expert_loads=lambda config: expert_loads_of(config, _call),
    hidden_states=lambda config: hidden_states_of(config, _call, {"encoder": ()}),
    **DECLARED,
)
