"""Recurrent encoder-decoders, with and without attention.

Without attention the decoder reads only the encoder's last state (Sutskever et al. 2014, Cho et al.
2014). With attention every step also reads the encoder's states of all source tokens (Bahdanau et
al. 2015, Luong et al. 2015).

Axes: b batch, t target time, s source time, d width of the embedding or of a hidden state, m width
of the encoder's states (both directions), v vocabulary.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.models.dense_product import times
from lm_jax.models.family import AttentionMaps, Family
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared, declared_table
from lm_jax.models.recurrent.attention import ATTENTIONS, GlobalAttention
from lm_jax.models.recurrent.layer import (
    CELLS,
    Kernel,
    RecurrentLayer,
    State,
    side_by_side,
    zero_state,
)
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig


class Source(NamedTuple):
    """Source rows; segment n of a target row belongs to segment n of its source row."""

    tokens_bs: jax.Array
    segments_bs: jax.Array  # 0: padding


class Encoded(NamedTuple):
    """The states of an encoder after reading a source."""

    memory_bsm: jax.Array  # hidden states of the last layer, both directions
    states: tuple[tuple[State, ...], ...]  # by layer and direction, [s, b, d] in reading order


class AttentionMemory(NamedTuple):
    """The source states that attention reads, and their keys."""

    states_bsm: jax.Array
    keys_bsk: jax.Array


class DecoderCarry(NamedTuple):
    """The state of a decoder between two tokens; arrays have the batch axis first."""

    states: tuple[State, ...]  # by layer, each [b, d]
    memory: AttentionMemory | None
    mask_bs: jax.Array  # true on the tokens of the source


class RecurrentSeq2Seq(nn.Module):
    """Maps a source and a target to float32 logits [b, t, v]."""

    config: RecurrentSeq2SeqConfig
    dtype: Any
    train: bool

    def setup(self):
        c = self.config

        def layers() -> list[RecurrentLayer]:
            layer = (c.cell, c.d_hidden, c.layer_norm, self.dtype)
            return [RecurrentLayer(*layer) for _ in range(c.num_layers)]

        self.encoder, self.decoder = layers(), layers()
        if c.bidirectional:
            self.encoder_backward = layers()
            shape, lecun = (c.memory_width, c.d_hidden), nn.initializers.lecun_normal()
            states = range(CELLS[c.cell].states)
            self.bridge = [[Kernel(shape, lecun) for _ in states] for _ in range(c.num_layers)]
        if scoring := ATTENTIONS[c.attention]:
            self.attention = GlobalAttention(
                c.d_hidden, c.memory_width, c.d_attention, self.dtype, scoring
            )
        # Time-major; a mask broadcast over time is variational dropout.
        self.dropout = nn.Dropout(c.dropout_rate, broadcast_dims=(0,), deterministic=not self.train)
        # If tied, the table is also the output, so its rows are small; inputs are scaled up.
        stddev = 0.5 * c.d_hidden**-0.5 if c.tie_embeddings else 1.0
        self.embedding = self._table("embedding", stddev, c.embedding_width)
        if not c.tie_embeddings:
            self.source_embedding = self._table("source_embedding", 1.0, c.embedding_width)
            self.output = self._table("output", 0.02, c.d_hidden, output=True)
        zeros = declared(nn.initializers.zeros, ("vocab",))
        self.output_bias: Any = self.param("output_bias", zeros, (c.vocab_size,))

    def __call__(self, source: Source, inputs_bt, segments_bt):
        h_btd, memory, mask_bts = self._decode_segments(source, inputs_bt, segments_bt)
        return self._logits(h_btd, memory, mask_bts)

    def attention_weights(self, source: Source, inputs_bt, segments_bt):
        """Returns the attention weights of source tokens, float32 [b, t, s]."""
        h_btd, memory, mask_bts = self._decode_segments(source, inputs_bt, segments_bt)
        return self.attention.weights(h_btd, memory.keys_bsk, mask_bts)

    def start(self, source: Source) -> DecoderCarry:
        """Returns the state before the first token of segment 1 of the targets."""
        encoded = self._encode(source)
        segments_b1 = jnp.ones_like(source.segments_bs[:, :1])
        entering = self._hand_over(encoded, source.segments_bs, segments_b1)
        states = tuple(tuple(part[0] for part in state) for state in entering)
        return DecoderCarry(states, self._memory(encoded), source.segments_bs == 1)

    def read(self, carry: DecoderCarry, tokens_bt) -> tuple[jax.Array, DecoderCarry]:
        """Returns the logits [b, v] and the state after the last of these tokens."""
        h_btd, states = self._decode(tokens_bt, carry.states)
        mask_b1s = carry.mask_bs[:, None]
        return self._logits(h_btd[:, -1:], carry.memory, mask_b1s)[:, 0], carry._replace(
            states=states
        )

    def _table(self, name: str, stddev: float, width: int, output: bool = False) -> Any:
        normal = declared_table(nn.initializers.normal(stddev), ("vocab", "embed"), output=output)
        return self.param(name, normal, (self.config.vocab_size, width))

    def _embed(self, table_vd, tokens_bt):
        """Returns x_tbd and None, or a table [1, v, d] and the index of its rows to read."""
        c = self.config
        x_vd = jnp.asarray(table_vd, self.dtype)
        if c.tie_embeddings:
            x_vd = x_vd * (2 * c.d_hidden**0.5)
        # The first layer's projection depends on the token alone, so it can project the table.
        if c.vocab_size >= tokens_bt.size or (self.train and c.dropout_rate):
            return x_vd[tokens_bt.T], None
        return x_vd[None], tokens_bt.T

    def _encode(self, source: Source) -> Encoded:
        c = self.config
        table_vd = self.embedding if c.tie_embeddings else self.source_embedding
        x_sbd, index_sb = self._embed(table_vd, source.tokens_bs)
        zeros = zero_state(c.cell, source.tokens_bs.shape[0], c.d_hidden)
        of_layers = []
        for index in range(c.num_layers):
            x_sbd = self.dropout(x_sbd)
            outputs, of_directions = [], []
            for layers, order in self._directions():
                keep_sb = 1.0 - _opens(source.segments_bs[:, ::order]).T
                # A table has no time axis to reverse.
                read_sbd = x_sbd[::order] if index_sb is None else x_sbd
                read_index_sb = None if index_sb is None else index_sb[::order]
                h_sbd, states = layers[index](
                    read_sbd, zeros, keep_sb, index_tb=read_index_sb, all_states=True
                )
                outputs.append(h_sbd[::order])
                of_directions.append(states)
            x_sbd, index_sb = side_by_side(outputs, batch_axis=1), None
            of_layers.append(tuple(of_directions))
        return Encoded(x_sbd.swapaxes(0, 1), tuple(of_layers))

    def _directions(self) -> list[tuple[list[RecurrentLayer], int]]:
        """Returns the encoder's layers by direction, with 1 for forward or -1 for backward."""
        first = (self.encoder, -1 if self.config.reverse_source else 1)
        return [first, (self.encoder_backward, -1)] if self.config.bidirectional else [first]

    def _hand_over(self, encoded: Encoded, source_segments_bs, segments_bt) -> tuple[State, ...]:
        """Returns the initial decoder states where segments start, [t, b, d]; 0 at other steps.

        A state comes from the last token that the encoder reads of a segment; a learned map joins
        two directions (Bahdanau et al. 2015, section A.2.2).
        """
        opens_tb1 = (_opens(segments_bt) & (segments_bt > 0)).T[..., None]
        lasts = [
            _last_of_segments(source_segments_bs[:, ::order], segments_bt)
            for _, order in self._directions()
        ]
        entering = []
        for index, of_directions in enumerate(encoded.states):
            state = []
            for kind in range(CELLS[self.config.cell].states):
                parts = [
                    _rows(states[kind], last_bt)
                    for states, last_bt in zip(of_directions, lasts, strict=True)
                ]
                part_tbd = side_by_side(parts, batch_axis=1)
                if self.config.bidirectional:
                    kernel_md = jnp.asarray(self.bridge[index][kind](), self.dtype)
                    part_tbd = times(part_tbd.astype(self.dtype), kernel_md).astype(jnp.float32)
                    # An LSTM's hidden state is bounded, its memory is not.
                    part_tbd = part_tbd if kind else jnp.tanh(part_tbd)
                state.append(jnp.where(opens_tb1, part_tbd, 0))
            entering.append(tuple(state))
        return tuple(entering)

    def _memory(self, encoded: Encoded) -> AttentionMemory | None:
        if not ATTENTIONS[self.config.attention]:
            return None
        return AttentionMemory(encoded.memory_bsm, self.attention.keys(encoded.memory_bsm))

    def _decode(self, tokens_bt, states: tuple[State, ...], keep_tb=None, entering=None):
        """Returns the last layer's h_btd, and all layers' states [b, d] after the last token."""
        x_tbd, index_tb = self._embed(self.embedding, tokens_bt)
        finals = []
        for index, (layer, state) in enumerate(zip(self.decoder, states, strict=True)):
            x_tbd, final = layer(
                self.dropout(x_tbd),
                state,
                keep_tb,
                index_tb=index_tb,
                entering=None if entering is None else entering[index],
            )
            index_tb = None
            finals.append(final)
        return x_tbd.swapaxes(0, 1), tuple(finals)

    def _decode_segments(self, source: Source, inputs_bt, segments_bt):
        """Returns the last layer's h_btd, the attention memory, and its mask_bts."""
        c = self.config
        encoded = self._encode(source)
        entering = self._hand_over(encoded, source.segments_bs, segments_bt)
        zeros = (zero_state(c.cell, inputs_bt.shape[0], c.d_hidden),) * c.num_layers
        keep_tb = 1.0 - _opens(segments_bt).T
        h_btd, _ = self._decode(inputs_bt, zeros, keep_tb, entering)
        mask_bts = segments_bt[:, :, None] == source.segments_bs[:, None]
        return h_btd, self._memory(encoded), mask_bts & (segments_bt > 0)[:, :, None]

    def _logits(self, h_btd, memory: AttentionMemory | None, mask_bts):
        if memory is not None:
            h_btd = self.attention(h_btd, memory.states_bsm, memory.keys_bsk, mask_bts)
        h_btd = self.dropout(h_btd.swapaxes(0, 1)).swapaxes(0, 1)
        output_vd = self.embedding if self.config.tie_embeddings else self.output
        output_vd = jnp.asarray(output_vd, self.dtype)
        logits_btv = jnp.einsum("btd,vd->btv", h_btd, output_vd, preferred_element_type=jnp.float32)
        return logits_btv + self.output_bias


def _opens(segments_bt: jax.Array) -> jax.Array:
    """Returns where a segment or padding begins, bool [b, t]; the first column is true."""
    opens_bt = segments_bt[:, 1:] != segments_bt[:, :-1]
    return jnp.concatenate([jnp.ones_like(segments_bt[:, :1], bool), opens_bt], axis=1)


def _last_of_segments(source_segments_bs: jax.Array, segments_bt: jax.Array) -> jax.Array:
    """Returns the last source index of each target step's segment, [b, t]; -1 if none."""
    same_bts = source_segments_bs[:, None] == segments_bt[:, :, None]
    return jnp.max(jnp.where(same_bts, jnp.arange(source_segments_bs.shape[1]), -1), axis=-1)


def _rows(x_sbd: jax.Array, index_bt: jax.Array) -> jax.Array:
    """Returns row index_bt of each sequence, [t, b, d]; 0 for index -1."""
    rows = jax.vmap(lambda x_sd, index_t: x_sd[index_t], in_axes=(1, 0), out_axes=1)
    return jnp.where((index_bt >= 0).T[..., None], rows(x_sbd, index_bt), 0)


def _source(batch: Batch) -> Source:
    if "source" not in batch:
        raise UserError(
            f"a recurrent encoder-decoder reads a batch with `source`; given {', '.join(batch)}"
        )
    source_bs = batch["source"]
    return Source(source_bs, batch.get("source_segments", jnp.ones_like(source_bs)))


def _both(batch: Batch) -> tuple[Source, jax.Array, jax.Array]:
    """Returns the arguments of `RecurrentSeq2Seq`; without segments each row is one pair."""
    inputs_bt = batch["inputs"]
    return _source(batch), inputs_bt, batch.get("segments", jnp.ones_like(inputs_bt))


def recurrent_seq2seq(config: RecurrentSeq2SeqConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the recurrent encoder-decoder of a configuration.

    Several pairs may share a row: segment n of the target starts from the final states of segment n
    of the source, and attends only to that segment.

    Args:
      dtype: the dtype of the matrix products.

    Raises:
      UserError: the size of the vocabulary is not given.
    """
    if config.vocab_size < 1:
        raise UserError("model.vocab_size is 0: give the size of the vocabulary")
    network = RecurrentSeq2Seq(config, dtype, train=False)

    def init(key: jax.Array, batch: Batch) -> Variables:
        return network.init(key, *_both({name: x[:, :1] for name, x in batch.items()}))

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        rngs = {} if key is None else {"dropout": key}
        module = RecurrentSeq2Seq(config, dtype, train)
        return module.apply(variables, *_both(batch), rngs=rngs), {}

    def start(
        variables: Variables, batch_size: int, max_length: int, source: Batch
    ) -> DecoderCarry:
        if (given := source["source"].shape[0]) != batch_size:
            raise UserError(f"{given} sources for {batch_size} targets; give one for each")
        return network.apply(variables, _source(source), method="start")  # type: ignore

    def read(variables: Variables, carry: DecoderCarry, tokens: jax.Array):
        return network.apply(variables, carry, tokens, method="read")

    def step(variables: Variables, carry: DecoderCarry, tokens: jax.Array):
        return read(variables, carry, tokens[:, None])

    return Model(init, apply, loss_from_apply(apply), start, step, read=read)  # type: ignore


def attention_weights(
    config: RecurrentSeq2SeqConfig, variables: Variables, batch: Batch, dtype: Any = jnp.float32
) -> jax.Array:
    """Returns the attention weights of source tokens at each target step, float32 [B, T, S].

    Rows sum to 1 over the source of their segment; rows of padding are 0.

    Raises:
      UserError: the model has no attention.
    """
    if not ATTENTIONS[config.attention]:
        raise UserError("model.attention is none, so there are no attention weights")
    module = RecurrentSeq2Seq(config, dtype, train=False)
    return module.apply(variables, *_both(batch), method="attention_weights")  # type: ignore


def _attention_maps(config: RecurrentSeq2SeqConfig) -> AttentionMaps | None:
    if not ATTENTIONS[config.attention]:
        return None

    def maps(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        weights_bts = attention_weights(config, variables, batch)
        return {"cross": weights_bts[:, None, None]}  # one layer with one head

    return maps


FAMILY = Family(
    RecurrentSeq2SeqConfig,
    recurrent_seq2seq,
    ("seq2seq", "span_corruption"),
    any_length=True,
    widths=RecurrentSeq2SeqConfig.widths,
    has_encoder=True,
    ties_embeddings=lambda config: config.tie_embeddings,
    attention_maps=_attention_maps,
)
