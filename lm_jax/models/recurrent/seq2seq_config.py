"""The configuration of recurrent encoder-decoders."""

import dataclasses

from lm_jax.errors import UserError
from lm_jax.models.recurrent.attention import ATTENTIONS
from lm_jax.models.recurrent.language_model import check_recurrent, check_untied


@dataclasses.dataclass
class RecurrentSeq2SeqConfig:
    """The shape of a recurrent encoder-decoder; source and target share one vocabulary."""

    vocab_size: int = 0  # 0: the tokenizer's
    source_length: int = 64  # tokens of the longest source row
    context_length: int = 64  # tokens of the longest target row
    cell: str = "lstm"  # rnn, lstm, gru
    num_layers: int = 1  # of the encoder, and of the decoder
    d_embedding: int = 0  # 0: d_hidden
    d_hidden: int = 256  # of the decoder, and of each direction of the encoder
    bidirectional: bool = True  # the encoder reads in both directions
    # The encoder reads from the end (Sutskever et al. 2014, section 3.3).
    reverse_source: bool = False
    attention: str = "dot"  # none, additive, dot
    d_attention: int = 128  # additive: width of its hidden layer
    layer_norm: bool = False  # inside the cell (Ba et al. 2016)
    tie_embeddings: bool = False  # one table for source, target and output
    # Variational (Gal & Ghahramani 2016): one mask per row, equal at every step.
    dropout_rate: float = 0.0  # on the input of each layer and before the output

    @property
    def embedding_width(self) -> int:
        return self.d_embedding or self.d_hidden

    @property
    def memory_width(self) -> int:
        return self.d_hidden * (2 if self.bidirectional else 1)

    def widths(self) -> tuple[str, ...]:
        """Returns the fields that muP scales. Raises UserError for choices that it cannot scale."""
        check_untied(self)
        if self.attention == "dot":
            raise UserError(
                "mup_base_width needs attention scores of one scale at all widths, and "
                "model.attention dot sums them over the width; set it to additive or none"
            )
        widths = ("d_hidden", "d_embedding")
        return (*widths, "d_attention") if self.attention == "additive" else widths

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible shape."""
        check_recurrent(self)
        if self.attention not in ATTENTIONS:
            raise UserError(
                f"model.attention is {self.attention!r}; expected one of {', '.join(ATTENTIONS)}"
            )
        for field in ("source_length", "d_attention"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field} is {getattr(self, field)}; expected at least 1")
        for field in ("vocab_size", "d_embedding"):
            if getattr(self, field) < 0:
                raise UserError(f"model.{field} is {getattr(self, field)}; expected 0 or more")
        if self.bidirectional and self.reverse_source:
            raise UserError(
                "model.reverse_source is for an encoder of one direction; "
                "set model.bidirectional to False, or leave model.reverse_source False"
            )
        if self.tie_embeddings and self.embedding_width != self.d_hidden:
            raise UserError(
                f"model.tie_embeddings needs model.d_embedding {self.d_embedding} equal to "
                f"model.d_hidden {self.d_hidden}; make them equal, or set d_embedding to 0"
            )
