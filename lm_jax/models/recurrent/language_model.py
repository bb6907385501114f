"""Recurrent language models: Elman's network, the LSTM and the GRU, in layers.

Axes: b batch, t time, d width of the embedding or of a hidden state, v vocabulary.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared, declared_table
from lm_jax.models.recurrent.layer import CELLS, RecurrentLayer, State, zero_state


@dataclasses.dataclass
class RecurrentConfig:
    """The shape of a recurrent language model; the defaults are a small LSTM."""

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    context_length: int = described(64, "Steps of back-propagation through time.", minimum=1)
    cell: str = described("lstm", "The recurrent unit.", choices=CELLS)
    num_layers: int = described(2, "Recurrent layers.", minimum=1, maximum=10_000)
    d_embedding: int = described(0, "Width of the embeddings; 0: d_hidden.", minimum=0)
    d_hidden: int = described(256, "Width of each layer's hidden state.", minimum=1)
    layer_norm: bool = described(False, "Layer norm inside the cell (Ba et al. 2016).")
    tie_embeddings: bool = described(False, "One table for the input and the output.")
    dropout_rate: float = described(
        0.0,
        "On the input of each layer and before the output; variational, one mask per sequence "
        "(Gal & Ghahramani 2016).",
        minimum=0,
        below=1,
    )
    recurrent_dropout_rate: float = described(
        0.0,
        "On the previous hidden state inside its product; variational, too.",
        minimum=0,
        below=1,
    )
    carry_state: bool = described(
        False, "Training windows continue the state of the previous batch."
    )

    @property
    def embedding_width(self) -> int:
        return self.d_embedding or self.d_hidden

    def widths(self) -> tuple[str, ...]:
        """Returns the fields that muP scales. Raises UserError for tied embeddings."""
        check_untied(self)
        return "d_hidden", "d_embedding"

    def validate(self) -> None:
        """Raises UserError for fields that do not fit each other."""
        if self.tie_embeddings and self.embedding_width != self.d_hidden:
            raise UserError(
                f"model.tie_embeddings needs model.d_embedding {self.d_embedding} equal to "
                f"model.d_hidden {self.d_hidden}; make them equal, or set d_embedding to 0"
            )


def check_untied(config: Any) -> None:
    """Raises UserError for tied embeddings, whose scale muP cannot keep."""
    if config.tie_embeddings:
        raise UserError(
            "mup_base_width needs embeddings of one scale at all widths, and recurrent models "
            "with model.tie_embeddings multiply them by sqrt(d_hidden); set that to False"
        )


class RecurrentNetwork(nn.Module):
    """Maps tokens [b, t] and all layers' states to float32 logits [b, t, v] and new states."""

    config: RecurrentConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, tokens_bt, states: tuple[State, ...], keep_bt):
        c = self.config
        # If tied, the table is also the output, so its rows are small and inputs are multiplied by
        # sqrt(d) (Vaswani et al. 2017, section 3.4).
        stretch = c.d_hidden**0.5 if c.tie_embeddings else 1.0
        stddev = 0.5 / stretch if c.tie_embeddings else 1.0
        embedding_vd = self._table("embedding", stddev, c.embedding_width)
        # Time-major; a mask broadcast over time is variational dropout.
        dropout = nn.Dropout(c.dropout_rate, broadcast_dims=(0,), deterministic=not self.train)
        recurrent_dropout = nn.Dropout(c.recurrent_dropout_rate, deterministic=not self.train)
        x_tbd, index_tb = jnp.asarray(embedding_vd, self.dtype)[None] * stretch, tokens_bt.T
        # The first layer's projection depends on the token alone, so it can project the table.
        if c.vocab_size >= tokens_bt.size or (self.train and c.dropout_rate):
            x_tbd, index_tb = x_tbd[0, index_tb], None
        keep_tb = None if keep_bt is None else keep_bt.T
        finals = []
        for index, state in enumerate(states):
            mask_bd = None
            if self.train and c.recurrent_dropout_rate:
                mask_bd = recurrent_dropout(jnp.ones_like(state[0]))
            x_tbd, final = RecurrentLayer(
                c.cell, c.d_hidden, c.layer_norm, self.dtype, name=f"layer_{index}"
            )(dropout(x_tbd), state, keep_tb, mask_bd, index_tb)
            index_tb = None
            finals.append(final)
        # No sharding constraint here: with one on h, XLA's partitioner (jaxlib 0.10.2) computes
        # wrong gradients on a mesh of data 2 x fsdp 2 x tensor 2.
        x_btd = dropout(x_tbd).swapaxes(0, 1)
        output_vd = (
            embedding_vd
            if c.tie_embeddings
            else self._table("output", 0.02, c.d_hidden, output=True)
        )
        bias_v: Any = self.param(
            "output_bias",
            declared(nn.initializers.zeros, ("vocab",)),
            (c.vocab_size,),
        )
        logits_btv = jnp.einsum(
            "btd,vd->btv",
            x_btd,
            jnp.asarray(output_vd, self.dtype),
            preferred_element_type=jnp.float32,
        )
        return logits_btv + bias_v, tuple(finals)

    def _table(self, name: str, stddev: float, width: int, output: bool = False) -> Any:
        normal = declared_table(nn.initializers.normal(stddev), ("vocab", "embed"), output=output)
        return self.param(name, normal, (self.config.vocab_size, width))


def _keep(batch: Batch) -> jax.Array | None:
    """Returns 0 where a document begins, which resets the state, else 1; None without segments.

    In a window of a stream, segment 1 in the first column continues the previous window's document;
    a document or epoch that begins there has segment 2 or more (`data.batches`). The state before
    the first column therefore belongs to segment 1.
    """
    if "segments" not in batch:
        return None
    segments_bt = batch["segments"]
    before_bt = jnp.concatenate([jnp.ones_like(segments_bt[:, :1]), segments_bt[:, :-1]], axis=1)
    return (segments_bt == before_bt).astype(jnp.float32)


def recurrent(config: RecurrentConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the recurrent language model of a configuration.

    With `carry_state`, `variables["carry"]` holds the state after the last training window, for
    batches whose rows continue the previous batch's rows (truncated back-propagation through time).
    Evaluation and generation start from zeros.

    Args:
      dtype: the dtype of the matrix products.

    Raises:
      UserError: the size of the vocabulary is not given.
    """
    if config.vocab_size < 1:
        raise UserError("model.vocab_size is 0: give the size of the vocabulary")

    def zeros(batch_size: int) -> tuple[State, ...]:
        return (zero_state(config.cell, batch_size, config.d_hidden),) * config.num_layers

    def init(key: jax.Array, batch: Batch) -> Variables:
        batch_size = batch["inputs"].shape[0]
        module = RecurrentNetwork(config, dtype, train=False)
        variables = module.init(key, batch["inputs"][:, :1], zeros(batch_size), None)
        return {**variables, "carry": zeros(batch_size)} if config.carry_state else variables

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        batch_size = batch["inputs"].shape[0]
        carries = train and config.carry_state
        states = variables["carry"] if carries else zeros(batch_size)
        if states[0][0].shape[0] != batch_size:
            raise UserError(
                f"a batch of {batch_size} sequences cannot continue the carried state of "
                f"{states[0][0].shape[0]}; keep the training batch at one size"
            )
        module = RecurrentNetwork(config, dtype, train)
        rngs = {} if key is None else {"dropout": key}
        params = {"params": variables["params"]}
        logits_btv, states = module.apply(  # type: ignore[misc]
            params, batch["inputs"], states, _keep(batch), rngs=rngs
        )
        if carries:
            return logits_btv, {"carry": jax.lax.stop_gradient(states)}
        return logits_btv, {"carry": variables["carry"]} if config.carry_state else {}

    def start(variables: Variables, batch_size: int, max_length: int) -> tuple[State, ...]:
        return zeros(batch_size)

    def step(variables: Variables, carry: tuple[State, ...], tokens: jax.Array):
        module = RecurrentNetwork(config, dtype, train=False)
        params = {"params": variables["params"]}
        logits_btv, carry = module.apply(params, tokens[:, None], carry, None)  # type: ignore
        return logits_btv[:, 0], carry

    return Model(init, apply, loss_from_apply(apply), start, step)


FAMILY = Family(
    RecurrentConfig,
    recurrent,
    any_length=True,
    widths=RecurrentConfig.widths,
    carries_state=lambda config: config.carry_state,
    ties_embeddings=lambda config: config.tie_embeddings,
    attention_per_token=lambda config: 0,
)
