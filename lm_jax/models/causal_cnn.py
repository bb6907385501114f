"""A causal convolutional language model: dilated, gated, residual.

It follows WaveNet (van den Oord et al. 2016, eq. 2) and ByteNet (Kalchbrenner et al. 2016).
Axes: b batch, t time, d model width, v vocabulary.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.causal_shift import lagged, positions_of
from lm_jax.models.dense_product import dense_product
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared, declared_kernel, declared_table


@dataclasses.dataclass
class CausalCNNConfig:
    """The shape of the network; dilations double from block to block and restart in cycles."""

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    context_length: int = described(
        64, "Tokens of a training window; see `receptive_field`.", minimum=1
    )
    num_layers: int = described(6, "Gated convolution blocks.", minimum=1, maximum=10_000)
    d_model: int = described(128, "Width of the activations between blocks.", minimum=1)
    kernel_width: int = described(2, "Taps of a convolution.", minimum=1)
    dilation_cycle: int = described(
        6, "The dilation of block i is 2 ** (i % dilation_cycle).", minimum=1
    )
    logit_scale: float = described(1.0, "Factor on the logits.", above=0)
    dropout_rate: float = described(
        0.0, "Dropout of the embedding and of each block.", minimum=0, below=1
    )

    @property
    def dilations(self) -> list[int]:
        return [2 ** (index % self.dilation_cycle) for index in range(self.num_layers)]

    @property
    def receptive_field(self) -> int:
        """The number of tokens that a prediction depends on."""
        return 1 + (self.kernel_width - 1) * sum(self.dilations)

    def widths(self) -> tuple[str, ...]:
        """Returns the field that muP scales."""
        return ("d_model",)


class GatedConvBlock(nn.Module):
    """x + W (tanh(F * norm(x)) . sigmoid(G * norm(x))), where * is a causal convolution.

    Both convolutions are one product of the concatenated taps; XLA's own are slow on a CPU.
    """

    config: CausalCNNConfig
    dtype: Any
    train: bool
    dilation: int

    @nn.compact
    def __call__(self, x_btd, positions_bt, past_btd):
        """Returns x_btd after the block, and the past that the next token needs.

        Args:
          past_btd: in decoding, the normalized inputs of earlier tokens; None in training.
        """
        c = self.config
        scale = declared(nn.initializers.ones, ("norm",))
        bias = declared(nn.initializers.zeros, ("norm",))
        norm = nn.LayerNorm(1e-5, self.dtype, scale_init=scale, bias_init=bias, name="norm")
        normed_btd = norm(x_btd)
        lags = [lag * self.dilation for lag in range(c.kernel_width - 1, -1, -1)]
        if past_btd is None:
            taps = [lagged(normed_btd, lag, positions_bt) for lag in lags]
        else:
            past_btd = jnp.concatenate([past_btd, normed_btd], axis=1)
            taps = [past_btd[:, :: self.dilation].reshape(len(past_btd), 1, -1)]
            past_btd = past_btd[:, 1:]
        taps_btd = jnp.concatenate(taps, axis=-1)
        gates_btd = self._dense(2 * c.d_model, ("embed", "mlp"), "convolution")(taps_btd)
        filter_btd, gate_btd = jnp.split(gates_btd, 2, axis=-1)
        y_btd = nn.tanh(filter_btd) * nn.sigmoid(gate_btd)
        y_btd = self._dense(c.d_model, ("mlp", "embed"), "output")(y_btd)
        return x_btd + nn.Dropout(c.dropout_rate, deterministic=not self.train)(y_btd), past_btd

    def _dense(self, features: int, axes: tuple[str, str], name: str):
        return nn.Dense(
            features,
            dtype=self.dtype,
            dot_general=dense_product,
            kernel_init=declared_kernel(nn.initializers.lecun_normal(), axes),
            bias_init=declared(nn.initializers.zeros, axes[1:]),
            name=name,
        )


class CausalCNN(nn.Module):
    """Embedding, blocks, norm, and the embedding as the output."""

    config: CausalCNNConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, tokens_bt, positions_bt, past):
        c = self.config
        table = declared_table(nn.initializers.normal(0.02), ("vocab", "embed"))
        embedding_vd = self.param("embedding", table, (c.vocab_size, c.d_model))
        x_btd = jnp.asarray(embedding_vd, self.dtype)[tokens_bt]
        x_btd = nn.Dropout(c.dropout_rate, deterministic=not self.train)(x_btd)
        new_past = []
        for index, dilation in enumerate(c.dilations):
            block = GatedConvBlock(c, self.dtype, self.train, dilation, name=f"block_{index}")
            x_btd, layer_past = block(x_btd, positions_bt, past[index] if past else None)
            new_past.append(layer_past)
        scale = declared(nn.initializers.ones, ("norm",))
        bias = declared(nn.initializers.zeros, ("norm",))
        norm = nn.LayerNorm(1e-5, self.dtype, scale_init=scale, bias_init=bias, name="final_norm")
        output_vd, x_btd = jnp.asarray(embedding_vd, self.dtype), norm(x_btd)
        if c.logit_scale != 1.0:
            x_btd = x_btd * c.logit_scale
        logits_btv = jnp.einsum("btd,vd->btv", x_btd, output_vd, preferred_element_type=jnp.float32)
        return logits_btv, new_past


def causal_cnn(config: CausalCNNConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the convolutional language model of a configuration, which computes in `dtype`.

    Raises:
      UserError: the size of the vocabulary is not given.
    """
    if config.vocab_size < 1:
        raise UserError("model.vocab_size is 0: give the size of the vocabulary")

    def init(key: jax.Array, batch: Batch) -> Variables:
        module = CausalCNN(config, dtype, train=False)
        return module.init(key, batch["inputs"], positions_of(batch), None)

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        module, rngs = CausalCNN(config, dtype, train), {} if key is None else {"dropout": key}
        arguments = batch["inputs"], positions_of(batch), None
        return module.apply(variables, *arguments, rngs=rngs)[0], {}  # type: ignore[index]

    def start(variables: Variables, batch_size: int, max_length: int):
        lengths = [(config.kernel_width - 1) * dilation for dilation in config.dilations]
        return [jnp.zeros((batch_size, length, config.d_model), dtype) for length in lengths]

    def step(variables: Variables, carry: list[jax.Array], tokens: jax.Array):
        module = CausalCNN(config, dtype, train=False)
        logits_btv, carry = module.apply(variables, tokens[:, None], None, carry)  # type: ignore
        return logits_btv[:, 0], carry

    return Model(init, apply, loss_from_apply(apply), start, step)


FAMILY = Family(
    CausalCNNConfig,
    causal_cnn,
    any_length=True,
    widths=CausalCNNConfig.widths,
    ties_embeddings=lambda config: True,
    scale_logits=lambda config, factor: dataclasses.replace(
        config, logit_scale=config.logit_scale * factor
    ),
    attention_per_token=lambda config: 0,
)
