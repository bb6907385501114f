"""The decoder-only Transformer, such as GPT-2 or Llama.

Axes: b batch, t time, d model width, v vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables
from lm_jax.models.transformer.assembly import (
    DECLARED,
    Cache,
    attention_per_token,
    attention_windows_of,
    decoder_inputs,
    embed,
    embedding_table,
    empty_cache,
    expert_loads_of,
    hidden_states_of,
    logits_or_losses,
    make_model,
    maps_of,
    masks_by_block,
    with_decoding,
)
from lm_jax.models.transformer.blocks import AttentionInputs, LayerCache
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.models.transformer.stack import TransformerStack, unstacked


class Decoder(nn.Module):
    """Tokens [b, t] to float32 logits [b, t, v], or to losses of targets; and extended caches."""

    config: TransformerConfig
    dtype: Any
    train: bool
    causal: bool = True

    def setup(self):
        c = self.config
        self.stack = TransformerStack(
            c, self.dtype, self.train, c.num_layers, c.context_length, True, self.causal
        )
        nn.share_scope(self, self.stack)

    @nn.compact
    def __call__(self, tokens_bt, inputs: AttentionInputs, caches=None, targets_bt=None):
        embedding_vd = embedding_table(self)
        x_btd, caches = self.stack(embed(self, embedding_vd, tokens_bt), inputs, caches)
        if caches is not None:  # decoding asks for what follows the last token
            x_btd = x_btd[:, -1:]
        return logits_or_losses(self, embedding_vd, x_btd, targets_bt), caches


def _call(config: TransformerConfig, dtype: Any, train: bool, batch: Batch):
    module = Decoder(config, dtype, train, causal="prefix" not in batch)
    by_block = masks_by_block(config, batch["inputs"])
    return module, (batch["inputs"], decoder_inputs(config, batch, by_block))


def transformer(config: TransformerConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the decoder-only Transformer of a configuration, which computes in `dtype`.

    Where a batch has `prefix` [b, t], all tokens of a segment read the tokens that it marks.

    Raises:
      UserError: the size of the vocabulary is not given.
    """

    def start(variables: Variables, batch_size: int, max_length: int) -> Cache:
        own = empty_cache(config, dtype, batch_size, max_length)
        return Cache((LayerCache(own, None),) * config.num_layers, jnp.int32(0))

    def prepare(params: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**params, "layers": unstacked(params["layers"], dtype)}

    model = make_model(config, dtype, _call)
    return with_decoding(model, config, dtype, Decoder, prepare)._replace(start=start)


FAMILY = Family(
    TransformerConfig,
    transformer,
    ("causal_lm", "prefix_lm", "seq2seq"),
    attention_per_token=attention_per_token,
    attention_maps=lambda config: maps_of(config, _call, {"decoder": ("layers", "attention")}),
    attention_windows=lambda config: attention_windows_of(config, {"decoder": config.num_layers}),
    expert_loads=lambda config: expert_loads_of(config, _call),
    hidden_states=lambda config: hidden_states_of(config, _call, {"decoder": ()}),
    **DECLARED,
)
