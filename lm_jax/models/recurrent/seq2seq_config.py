"""The configuration of recurrent encoder-decoders."""

import dataclasses

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.recurrent.attention import ATTENTIONS
from lm_jax.models.recurrent.language_model import check_untied
from lm_jax.models.recurrent.layer import CELLS


@dataclasses.dataclass
class RecurrentSeq2SeqConfig:
    """The shape of a recurrent encoder-decoder; source and target share one vocabulary."""

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    source_length: int = described(64, "Tokens of the longest row of sources.", minimum=1)
    context_length: int = described(64, "Tokens of the longest row of targets.", minimum=1)
    cell: str = described("lstm", "The recurrent unit.", choices=CELLS)
    num_layers: int = described(
        1, "Layers of the encoder, and of the decoder.", minimum=1, maximum=10_000
    )
    d_embedding: int = described(0, "Width of the embeddings; 0: d_hidden.", minimum=0)
    d_hidden: int = described(
        256, "Width of the decoder, and of each direction of the encoder.", minimum=1
    )
    bidirectional: bool = described(True, "The encoder reads in both directions.")
    reverse_source: bool = described(
        False, "The encoder reads from the end (Sutskever et al. 2014, section 3.3)."
    )
    attention: str = described(
        "dot", "How the decoder scores the states of the encoder.", choices=ATTENTIONS
    )
    d_attention: int = described(128, "additive: width of its hidden layer.", minimum=1)
    layer_norm: bool = described(False, "Layer norm inside the cell (Ba et al. 2016).")
    tie_embeddings: bool = described(False, "One table for source, target and output.")
    dropout_rate: float = described(
        0.0,
        "On the input of each layer and before the output; variational, one mask per row "
        "(Gal & Ghahramani 2016).",
        minimum=0,
        below=1,
    )

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
        """Raises UserError for fields that do not fit each other."""
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
