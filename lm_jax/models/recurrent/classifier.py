"""Recurrent text classifiers, for texts of any length.

Axes: b batch, t time, d width of the embedding or of a hidden state, c classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.dense_product import dense_product
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared, declared_kernel, declared_table
from lm_jax.models.recurrent.layer import CELLS, RecurrentLayer, side_by_side, zero_state


def _last(h_tbd: jax.Array, lengths_b: jax.Array, width: int) -> jax.Array:
    rows = jnp.arange(lengths_b.shape[0])
    forward_bd = h_tbd[lengths_b - 1, rows, :width]
    # The backward direction ends at the first token; without it this part is empty.
    return side_by_side([forward_bd, h_tbd[0, :, width:]], batch_axis=0)


def _mean(h_tbd: jax.Array, lengths_b: jax.Array, width: int) -> jax.Array:
    total_bd = jnp.sum(jnp.where(_is_text(h_tbd, lengths_b), h_tbd, 0), axis=0)
    return total_bd / lengths_b[:, None]


def _max(h_tbd: jax.Array, lengths_b: jax.Array, width: int) -> jax.Array:
    return jnp.max(jnp.where(_is_text(h_tbd, lengths_b), h_tbd, -jnp.inf), axis=0)


def _is_text(h_tbd: jax.Array, lengths_b: jax.Array) -> jax.Array:
    return (jnp.arange(len(h_tbd))[:, None] < lengths_b)[..., None]


POOLINGS: dict[str, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "last": _last,
    "mean": _mean,
    "max": _max,
}
"""Name -> (states h_tbd, lengths of the texts, width of a direction) -> pooled_bd."""


@dataclasses.dataclass
class RecurrentClassifierConfig:
    """The shape of a recurrent text classifier."""

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    num_classes: int = described(0, "Number of classes; 0: the data set's.", minimum=0)
    context_length: int = described(256, "Tokens of the longest text.", minimum=1)
    cell: str = described("lstm", "The recurrent unit.", choices=CELLS)
    num_layers: int = described(1, "Recurrent layers.", minimum=1, maximum=10_000)
    d_embedding: int = described(128, "Width of the embeddings.", minimum=1)
    d_hidden: int = described(64, "Width of the hidden state of each direction.", minimum=1)
    bidirectional: bool = described(False, "Reads in both directions.")
    pooling: str = described(
        "last",
        "What is classified: the last state of each direction, or the mean or maximum of all.",
        choices=POOLINGS,
    )
    dropout_rate: float = described(
        0.0,
        "On the input of each layer (variational) and before the head.",
        minimum=0,
        below=1,
    )

    def widths(self) -> tuple[str, ...]:
        """Returns the fields that muP scales."""
        return "d_hidden", "d_embedding"


class RecurrentClassifier(nn.Module):
    """Maps tokens [b, t] to float32 logits [b, c]; only tokens of segment 1 are text."""

    config: RecurrentClassifierConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, tokens_bt, segments_bt):
        c = self.config
        batch_size, time = tokens_bt.shape
        lengths_b = jnp.full((batch_size,), time)
        if segments_bt is not None:
            lengths_b = jnp.maximum(1, jnp.sum(segments_bt == 1, axis=1))
        time_t1 = jnp.arange(time)[:, None]
        embedding_vd = self.param(
            "embedding",
            declared_table(nn.initializers.normal(1.0), ("vocab", "embed")),
            (c.vocab_size, c.d_embedding),
        )
        # Time-major; a mask broadcast over time is variational dropout.
        dropout = nn.Dropout(c.dropout_rate, broadcast_dims=(0,), deterministic=not self.train)
        x_tbd = jnp.asarray(embedding_vd, self.dtype)[tokens_bt.T]
        for index in range(c.num_layers):
            x_tbd = dropout(x_tbd)
            directions = [self._layer(f"forward_{index}", x_tbd, None)]
            if c.bidirectional:
                # Reads from the end, and resets the state after the padding.
                keep_tb = None if segments_bt is None else (time_t1 != lengths_b - 1)[::-1]
                directions.append(self._layer(f"backward_{index}", x_tbd[::-1], keep_tb)[::-1])
            x_tbd = side_by_side(directions, batch_axis=1)
        pooled_bd = POOLINGS[c.pooling](x_tbd.astype(jnp.float32), lengths_b, c.d_hidden)
        return nn.Dense(
            c.num_classes,
            dtype=self.dtype,
            dot_general=dense_product,
            kernel_init=declared_kernel(
                nn.initializers.normal(0.02), ("embed", "vocab"), head=True
            ),
            bias_init=declared(nn.initializers.zeros, ("vocab",), head=True),
            name="head",
        )(dropout(pooled_bd[None])[0]).astype(jnp.float32)

    def _layer(self, name: str, x_tbd, keep_tb):
        c = self.config
        layer = RecurrentLayer(c.cell, c.d_hidden, False, self.dtype, name=name)
        return layer(x_tbd, zero_state(c.cell, x_tbd.shape[1], c.d_hidden), keep_tb)[0]


def recurrent_classifier(config: RecurrentClassifierConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the recurrent text classifier of a configuration; it does not generate.

    Logits are [b, c] and targets [b]. `segments` is 1 on text and 0 on the padding after it;
    without padding it can be left out. A text without tokens is read as one token of padding.

    Raises:
      UserError: the size of the vocabulary or the number of classes is not given.
    """
    for field, what in (("vocab_size", "vocabulary"), ("num_classes", "set of classes")):
        if getattr(config, field) < 1:
            raise UserError(f"model.{field} is 0: give the size of the {what}")

    def init(key: jax.Array, batch: Batch) -> Variables:
        module = RecurrentClassifier(config, dtype, train=False)
        return module.init(key, batch["inputs"], batch.get("segments"))

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        module = RecurrentClassifier(config, dtype, train)
        rngs = {} if key is None else {"dropout": key}
        return module.apply(variables, batch["inputs"], batch.get("segments"), rngs=rngs), {}

    return Model(init, apply, loss_from_apply(apply))


FAMILY = Family(
    RecurrentClassifierConfig,
    recurrent_classifier,
    ("classification",),
    widths=RecurrentClassifierConfig.widths,
)
