"""The shapes of Transformers: what all of them can choose, and what each can."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from lm_jax.errors import UserError
from lm_jax.models.transformer.flash_attention import KERNELS
from lm_jax.models.transformer.layers import ACTIVATIONS, GATES, NORM_ORDERS, NORMS
from lm_jax.models.transformer.pooling import POOLINGS
from lm_jax.models.transformer.positions import POSITIONS
from lm_jax.models.transformer.remat import REMAT
from lm_jax.models.transformer.ring_attention import CONTEXT_PARALLEL


class StackShape(NamedTuple):
    """A stack of layers: the length of its sequences, and of the source that it reads."""

    length: int
    num_layers: int
    source_length: int = 0  # 0: no cross-attention


@dataclasses.dataclass
class BlocksConfig:
    """What all Transformers can choose; the defaults are GPT-2's choices in miniature."""

    vocab_size: int = 0  # 0: the tokenizer's
    context_length: int = 256
    num_layers: int = 4
    d_model: int = 128
    num_heads: int = 4
    num_kv_heads: int = 0  # 0: num_heads; fewer is grouped-query attention
    d_ff: int = 0  # 0: 4 d_model, or 8/3 d_model rounded up to a multiple of 64 for gated units
    norm: str = "layer_norm"  # layer_norm, rms_norm
    norm_order: str = "pre"  # pre, post (after each sum, as Vaswani et al. 2017 and BERT)
    norm_epsilon: float = 1e-5
    embedding_norm: bool = False  # a norm after the embeddings, as in BERT
    activation: str = "gelu_tanh"  # gelu (exact), gelu_tanh, relu, swiglu, geglu
    positions: str = "learned"  # learned, sinusoidal, rotary, relative (T5's biases)
    rotary_base: float = 10_000.0
    relative_buckets: int = 32
    relative_distance: int = 128  # from here on all keys share a bucket
    scale_embeddings: bool = False  # times sqrt(d_model): Vaswani et al. 2017, section 3.4
    tie_embeddings: bool = True
    use_bias: bool = True
    dropout_rate: float = 0.0  # after the embedding, each attention and each feed-forward block
    logit_scale: float = 1.0  # logits are times this, before biases and the soft cap
    logit_soft_cap: float = 0.0  # 0: off; else cap * tanh(logits / cap)
    loss_chunks: int = 1  # above 1: pieces of the vocabulary, whose logits are never held at once
    attention: str = "xla"  # xla, cudnn (NVIDIA's GPUs, bfloat16), auto (cudnn where it serves)
    scan_layers: bool = False  # one compiled layer in a loop: compiles faster, steps slower
    # Memory against recomputation: none, dots (keeps products with weights), full.
    remat: str = "none"
    # Where the mesh splits time: all_gather (each device holds all keys), ring (a block at a time).
    context_parallel: str = "all_gather"

    @property
    def head_width(self) -> int:
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def feed_forward_width(self) -> int:
        if self.d_ff:
            return self.d_ff
        return 64 * math.ceil(self.d_model / 24) if self.activation in GATES else 4 * self.d_model

    def lengths(self) -> dict[str, int]:
        """Returns the fields that are lengths of sequences, with their values."""
        return {"context_length": self.context_length}

    def stacks(self) -> tuple[StackShape, ...]:
        """Returns the stacks of layers, an encoder first."""
        return (StackShape(self.context_length, self.num_layers),)

    def widths(self) -> tuple[str, ...]:
        """The fields that muP scales, heads keeping their width; UserError where it cannot."""
        if self.scale_embeddings:
            raise UserError(
                "mup_base_width wants embeddings of one size at all widths, and "
                "model.scale_embeddings makes them grow as sqrt(d_model); set that to False"
            )
        return "d_model", "num_heads", "num_kv_heads", "d_ff"

    def validate(self) -> None:
        """Raises UserError for a shape or a choice that cannot be built."""
        for field, choices in _CHOICES.items():
            if (given := getattr(self, field)) not in choices:
                raise UserError(f"model.{field} is {given!r}; expected one of {', '.join(choices)}")
        for field in ("context_length", "num_layers", "d_model", "num_heads", "loss_chunks"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field} is {getattr(self, field)}; expected at least 1")
        for field in ("vocab_size", "num_kv_heads", "d_ff", "logit_soft_cap"):
            if getattr(self, field) < 0:
                raise UserError(f"model.{field} is {getattr(self, field)}; expected 0 or more")
        for field in ("rotary_base", "norm_epsilon", "logit_scale"):
            if not getattr(self, field) > 0:
                raise UserError(f"model.{field} is {getattr(self, field)}; expected above 0")
        if self.d_model % self.num_heads:
            raise UserError(
                f"model.d_model {self.d_model} is not a multiple of model.num_heads "
                f"{self.num_heads}; change one of them"
            )
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"model.num_heads {self.num_heads} is not a multiple of model.num_kv_heads "
                f"{self.kv_heads}; change one of them"
            )
        POSITIONS[self.positions].check(self)
        if self.relative_buckets < 4 or self.relative_buckets % 4:
            raise UserError(
                f"model.relative_buckets is {self.relative_buckets}; expected a multiple of 4"
            )
        if self.relative_distance <= self.relative_buckets // 2:
            raise UserError(
                f"model.relative_distance is {self.relative_distance}; expected more than half of "
                f"model.relative_buckets {self.relative_buckets}"
            )
        if not 0.0 <= self.dropout_rate < 1.0:
            raise UserError(f"model.dropout_rate is {self.dropout_rate}; expected 0 <= rate < 1")


_CHOICES: dict[str, Mapping[str, Any]] = {
    "norm": NORMS,
    "norm_order": NORM_ORDERS,
    "activation": ACTIVATIONS | GATES,
    "positions": POSITIONS,
    "attention": KERNELS,
    "remat": REMAT,
    "context_parallel": CONTEXT_PARALLEL,
}


@dataclasses.dataclass
class TransformerConfig(BlocksConfig):
    """The shape of a decoder-only Transformer, such as GPT-2 or Llama."""


@dataclasses.dataclass
class EncoderConfig(BlocksConfig):
    """The shape of an encoder; the defaults are BERT's choices in miniature (Devlin et al. 2019).

    It predicts masked tokens; with `num_classes`, which labelled data fills in, it classifies.
    """

    norm_order: str = "post"
    norm_epsilon: float = 1e-12
    embedding_norm: bool = True
    activation: str = "gelu"
    num_segment_types: int = 0  # BERT: 2, named by `segment_types` of a batch; without, all are 0
    num_classes: int = 0  # 0: the labelled data's; masked language models have none
    pooling: str = "mean"  # mean (of the text), first (its first token, through BERT's pooler)

    def validate(self) -> None:
        """Raises UserError for a shape or a choice that cannot be built."""
        super().validate()
        if self.pooling not in POOLINGS:
            raise UserError(
                f"model.pooling is {self.pooling!r}; expected one of {', '.join(POOLINGS)}"
            )
        for field in ("num_segment_types", "num_classes"):
            if getattr(self, field) < 0:
                raise UserError(f"model.{field} is {getattr(self, field)}; expected 0 or more")


@dataclasses.dataclass
class EncoderDecoderConfig(BlocksConfig):
    """The shape of an encoder-decoder; the defaults are those of Vaswani et al., but pre-norm."""

    positions: str = "sinusoidal"
    scale_embeddings: bool = True
    activation: str = "relu"
    source_length: int = 256  # of the longest row of a source; context_length is the target's
    num_encoder_layers: int = 0  # 0: num_layers

    @property
    def encoder_layers(self) -> int:
        return self.num_encoder_layers or self.num_layers

    def lengths(self) -> dict[str, int]:
        """Returns the fields that are lengths of sequences, with their values."""
        return super().lengths() | {"source_length": self.source_length}

    def stacks(self) -> tuple[StackShape, ...]:
        """Returns the encoder and the decoder."""
        return (
            StackShape(self.source_length, self.encoder_layers),
            StackShape(self.context_length, self.num_layers, self.source_length),
        )

    def validate(self) -> None:
        """Raises UserError for a shape or a choice that cannot be built."""
        super().validate()
        if self.source_length < 1:
            raise UserError(f"model.source_length is {self.source_length}; expected at least 1")
        if self.num_encoder_layers < 0:
            raise UserError(
                f"model.num_encoder_layers is {self.num_encoder_layers}; expected 0 or more"
            )


def check_mesh(config: BlocksConfig, mesh: Mapping[str, int]) -> None:
    """Raises UserError for a mesh, sizes by axis, that cannot split heads or time evenly."""
    heads = {"num_heads": config.num_heads, "num_kv_heads": config.num_kv_heads}
    for axis, fields in {"tensor": heads, "sequence": config.lengths()}.items():
        for field, given in fields.items():
            if given % (parts := mesh[axis]):
                raise UserError(
                    f"model.{field} {given} does not divide over mesh {axis}:{parts}; "
                    f"choose a multiple of {parts}, or another mesh"
                )
    if config.attention == "cudnn" and mesh["sequence"] > 1:
        raise UserError(
            "model.attention is cudnn, whose kernels read the whole context, but the mesh splits "
            f"it over sequence:{mesh['sequence']}; take auto or xla, or another mesh"
        )
