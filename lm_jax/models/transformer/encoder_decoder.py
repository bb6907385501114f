"""The encoder-decoder Transformer (Vaswani et al. 2017), for sequence to sequence.

Axes: b batch, t time, s source time, d model width, v vocabulary, g key/value heads, k head width.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables
from lm_jax.models.transformer.assembly import (
    DECLARED,
    Cache,
    attention_windows_of,
    decoder_inputs,
    embed,
    embedding_table,
    empty_cache,
    encoder_inputs,
    expert_loads_of,
    hidden_states_of,
    logits_or_losses,
    make_model,
    maps_of,
    masks_by_block,
    with_decoding,
)
from lm_jax.models.transformer.attention import Tokens, attention_mask
from lm_jax.models.transformer.blocks import Attention, AttentionInputs, Keys, LayerCache
from lm_jax.models.transformer.config import EncoderDecoderConfig
from lm_jax.models.transformer.positions import POSITIONS
from lm_jax.models.transformer.stack import TransformerStack, layer_of, unstacked


class EncoderDecoder(nn.Module):
    """Tokens [b, t] and a source to float32 logits [b, t, v], from shared embeddings."""

    config: EncoderDecoderConfig
    dtype: Any
    train: bool

    def setup(self):
        c = self.config
        common = (c, self.dtype, self.train)
        self.encoder = TransformerStack(*common, c.encoder_layers, c.source_length, False, False)
        self.decoder = TransformerStack(*common, c.num_layers, c.context_length, True, True, True)

    @nn.compact
    def __call__(
        self,
        tokens_bt,
        inputs: AttentionInputs,
        source_bs=None,
        source_inputs=None,
        caches=None,
        targets_bt=None,
    ):
        embedding_vd = embedding_table(self)
        if source_bs is not None:
            inputs = inputs._replace(
                source_bsd=self._encode(embedding_vd, source_bs, source_inputs)
            )
        x_btd, caches = self.decoder(embed(self, embedding_vd, tokens_bt), inputs, caches)
        if caches is not None:  # decoding asks for what follows the last token
            x_btd = x_btd[:, -1:]
        return logits_or_losses(self, embedding_vd, x_btd, targets_bt), caches

    def _encode(self, embedding_vd, source_bs, source_inputs):
        return self.encoder(embed(self, embedding_vd, source_bs), source_inputs)[0]

    def encode(self, source_bs, source_inputs: AttentionInputs):
        """Returns the activations of a source that the decoder reads, [b, s, d]."""
        return self._encode(self.variables["params"]["embedding"], source_bs, source_inputs)


def _call(config: EncoderDecoderConfig, dtype: Any, train: bool, batch: Batch):
    source_bs, segments_bs = batch["source"], batch.get("source_segments")
    by_block = masks_by_block(config, batch["inputs"], source_bs)
    source_positions_bs = batch.get("source_positions")
    source_inputs = encoder_inputs(config, source_bs, segments_bs, source_positions_bs, by_block)
    segments_bt = batch.get("segments", jnp.ones_like(batch["inputs"]))
    across = (Tokens(segments_bt=segments_bt), Tokens(segments_bt=segments_bs))
    source = Keys(tokens=across) if by_block else Keys(attention_mask(*across))
    inputs = decoder_inputs(config, batch, by_block)._replace(source=source)
    module = EncoderDecoder(config, dtype, train)
    return module, (batch["inputs"], inputs, source_bs, source_inputs)


def encoder_decoder(config: EncoderDecoderConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the encoder-decoder of a configuration.

    Logits are [b, t, v]; the tokens of a segment read the source of the same segment. Without
    `source_segments` they read the whole source of their row.

    Raises:
      UserError: the size of the vocabulary is not given.
    """

    def start(
        variables: Variables, batch_size: int, max_length: int, source: Mapping[str, jax.Array]
    ) -> Cache:
        source_bs = source["source"]
        if POSITIONS[config.positions].has_table and source_bs.shape[1] > config.source_length:
            raise UserError(
                f"a source of {source_bs.shape[1]} tokens given to a model with learned positions "
                f"up to {config.source_length}; give a shorter one"
            )
        segments_bs = source.get("source_segments", jnp.ones_like(source_bs))
        inputs = encoder_inputs(config, source_bs, segments_bs, source.get("source_positions"))
        module = EncoderDecoder(config, dtype, train=False)
        encoded_bsd = module.apply(variables, source_bs, inputs, method="encode")
        attention = Attention(config, dtype, across=True)
        decoder = variables["params"]["decoder"]["layers"]
        own, layers = empty_cache(config, dtype, batch_size, max_length), []
        for index in range(config.num_layers):
            layer = {"params": layer_of(decoder, index)["cross_attention"]}
            pair: Any = attention.apply(layer, encoded_bsd, method="keys_values")
            k_bgsk, v_bgsk = (x_bsgk.transpose(0, 2, 1, 3) for x_bsgk in pair)
            layers.append(LayerCache(own, (k_bgsk, v_bgsk)))
        return Cache(tuple(layers), jnp.int32(0), segments_bs > 0)

    def prepare(params: Mapping[str, Any]) -> Mapping[str, Any]:
        decoder = params["decoder"]
        layers = unstacked(decoder["layers"], dtype)
        return {**params, "decoder": {**decoder, "layers": layers}}

    model = make_model(config, dtype, _call)
    return with_decoding(model, config, dtype, EncoderDecoder, prepare)._replace(start=start)


_MAPS = {
    "encoder": ("encoder", "layers", "attention"),
    "decoder": ("decoder", "layers", "attention"),
    "cross": ("decoder", "layers", "cross_attention"),
}
_STACKS = {"encoder": ("encoder",), "decoder": ("decoder",)}
FAMILY = Family(
    EncoderDecoderConfig,
    encoder_decoder,
    ("seq2seq", "span_corruption"),
    has_encoder=True,
    attention_maps=lambda config: maps_of(config, _call, _MAPS),
    attention_windows=lambda config: attention_windows_of(
        config, {"encoder": config.encoder_layers, "decoder": config.num_layers}
    ),
    expert_loads=lambda config: expert_loads_of(config, _call),
    hidden_states=lambda config: hidden_states_of(config, _call, _STACKS),
    **DECLARED,
)
