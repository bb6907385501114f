"""The shapes of Transformers: what all of them can choose, and what each can."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.fields import described, described_in
from lm_jax.models.transformer.flash_attention import KERNELS
from lm_jax.models.transformer.layers import ACTIVATIONS, GATES, NORM_ORDERS, NORMS, QK_NORMS
from lm_jax.models.transformer.pooling import POOLINGS
from lm_jax.models.transformer.positions import POSITIONS
from lm_jax.models.transformer.remat import REMAT
from lm_jax.models.transformer.ring_attention import CONTEXT_PARALLEL
from lm_jax.models.transformer.rotary import ROTARY_SCALINGS

_NO_WINDOW = 2**31 - 1  # further than any key


class LayerKind(NamedTuple):
    """What makes a layer another than its neighbours: bools, or arrays of one for each layer."""

    windowed: Any  # it reads no further than the sliding window
    rotated: Any  # rotary positions turn its queries and keys


class StackShape(NamedTuple):
    """A stack of layers: the length of its sequences, and of the source that it reads."""

    length: int
    num_layers: int
    source_length: int = 0  # 0: no cross-attention


@dataclasses.dataclass
class BlocksConfig:
    """What all Transformers can choose; the defaults are GPT-2's choices in miniature."""

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    context_length: int = described(256, "Tokens of the longest row.", minimum=1)
    num_layers: int = described(4, "Layers of the stack.", minimum=1, maximum=10_000)
    d_model: int = described(128, "Width of the activations between layers.", minimum=1)
    num_heads: int = described(4, "Heads of each attention.", minimum=1)
    head_dim: int = described(
        0, "Width of a head; 0: d_model / num_heads, which must be whole.", minimum=0
    )
    num_kv_heads: int = described(
        0, "Heads of keys and values; 0: num_heads, fewer: grouped-query attention.", minimum=0
    )
    d_ff: int = described(
        0,
        "Width inside a feed-forward block; 0: 4 d_model, or 8/3 d_model rounded up to a multiple "
        "of 64 for gated units.",
        minimum=0,
    )
    num_experts: int = described(
        0,
        "Experts of each feed-forward block, a mixture of experts without biases; 0: it is dense.",
        minimum=0,
        maximum=10_000,
    )
    experts_per_token: int = described(
        2, "Experts that a token passes: those of its largest router logits.", minimum=1
    )
    d_expert: int = described(0, "Width inside an expert; 0: that of d_ff.", minimum=0)
    d_shared_expert: int = described(
        0,
        "Width of an expert that every token passes, times a sigmoid gate (Qwen-MoE); 0: none.",
        minimum=0,
    )
    normalize_expert_weights: bool = described(
        True,
        "The weights of a token's experts sum to 1 (Mixtral); else they are the router's "
        "probabilities over all experts (OLMoE).",
    )
    router_balance_weight: float = described(
        0.01, "Weight of Switch's load-balancing loss, 1 at balance.", minimum=0
    )
    router_z_weight: float = described(
        0.001, "Weight of ST-MoE's mean square of the router's log-normalizer.", minimum=0
    )
    norm: str = described("layer_norm", "The normalisation of activations.", choices=NORMS)
    norm_order: str = described(
        "pre",
        "Norms stand before each block (pre), after each sum (post: Vaswani et al. 2017), after "
        "each block (post_block: OLMo 2), or before and after each block (both: Gemma 2).",
        choices=NORM_ORDERS,
    )
    parallel_blocks: bool = described(
        False, "Attention and feed-forward read the same activations, as in GPT-J and GPT-NeoX."
    )
    norm_epsilon: float = described(1e-5, "Added to the variance by a norm.", above=0)
    embedding_norm: bool = described(False, "A norm after the embeddings, as in BERT.")
    activation: str = described(
        "gelu_tanh",
        "Activation of the feed-forward blocks; gelu is exact, swiglu and geglu are gated units.",
        choices=ACTIVATIONS | GATES,
    )
    positions: str = described(
        "learned",
        "How a token knows its place; relative: T5's biases, alibi: those of Press et al. 2022.",
        choices=POSITIONS,
    )
    rotary_base: float = described(10_000.0, "rotary: base of the wavelengths.", above=0)
    rotary_fraction: float = described(
        1.0,
        "rotary: part of a head's features that turns, the first ones (GPT-NeoX: 0.25).",
        above=0,
        maximum=1,
    )
    rotary_scaling: str = described(
        "none",
        "rotary: how a model reads longer texts than it was trained with (Llama 3.1: llama3).",
        choices=ROTARY_SCALINGS,
    )
    rotary_factor: float = described(
        1.0, "rotary_scaling: factor on the length of the longest text.", minimum=1
    )
    rotary_original_length: int = described(
        0, "llama3, yarn: the context before scaling, in tokens.", minimum=0
    )
    rotary_low_factor: float = described(
        1.0, "llama3: pairs that turn less often in the original context are scaled.", above=0
    )
    rotary_high_factor: float = described(
        4.0, "llama3: pairs that turn more often in the original context are not scaled.", above=0
    )
    rotary_beta_fast: float = described(
        32.0, "yarn: pairs that turn more often in the original context are not scaled.", above=0
    )
    rotary_beta_slow: float = described(
        1.0, "yarn: pairs that turn less often in the original context are scaled.", above=0
    )
    rotary_attention_factor: float = described(
        0.0, "yarn: factor on rotated features; 0: 0.1 ln(rotary_factor) + 1.", minimum=0
    )
    sliding_window: int = described(
        0,
        "Tokens that a token reads back, itself among them; an encoder reads as many forward. 0: "
        "all.",
        minimum=0,
    )
    global_every: int = described(
        0,
        "With sliding_window: every n-th layer reads everything (Gemma 2: 2, Gemma 3: 6); 0: none.",
        minimum=0,
    )
    global_first: int = described(
        0,
        "With sliding_window: the first n layers read everything (Qwen: max_window_layers).",
        minimum=0,
    )
    rotary_local_base: float = described(
        0.0,
        "rotary: base in layers with the window, without scaling (Gemma 3); 0: as elsewhere.",
        minimum=0,
    )
    unrotated_every: int = described(
        0,
        "rotary: every n-th layer does not turn, and knows no positions (SmolLM 3: 4); 0: none.",
        minimum=0,
    )
    relative_buckets: int = described(
        32, "relative: biases of each head; a multiple of 4.", minimum=4
    )
    relative_distance: int = described(
        128, "relative: the distance from which on all keys share a bucket.", minimum=3
    )
    scale_embeddings: bool = described(
        False, "Multiply embeddings by sqrt(d_model) (Vaswani et al. 2017, section 3.4)."
    )
    tie_embeddings: bool = described(True, "One table for the input and the output.")
    use_bias: bool = described(True, "Biases in linear layers and in layer_norm.")
    qkv_bias: bool = described(
        False, "Biases of queries, keys and values, also where use_bias is false (Qwen 2)."
    )
    qk_norm: str = described(
        "none",
        "A norm of queries and keys: of each head (Qwen 3) or of all heads at once (OLMo 2).",
        choices=QK_NORMS,
    )
    attention_scale: float = described(
        0.0, "Factor on products of queries and keys; 0: 1 / sqrt(head width), T5: 1.", minimum=0
    )
    attention_soft_cap: float = described(
        0.0, "Scores of attention become cap * tanh(scores / cap) (Gemma 2); 0: off.", minimum=0
    )
    dropout_rate: float = described(
        0.0,
        "Dropout after the embedding, each attention and each feed-forward block.",
        minimum=0,
        below=1,
    )
    logit_scale: float = described(
        1.0, "Factor on the logits, before biases and the soft cap.", above=0
    )
    logit_soft_cap: float = described(
        0.0, "Logits become cap * tanh(logits / cap); 0: off.", minimum=0
    )
    loss_chunks: int = described(
        1,
        "Pieces of the vocabulary; above 1, the loss never holds the logits of all at once. "
        "Accelerators hold them in compute_dtype.",
        minimum=1,
    )
    attention: str = described(
        "auto",
        "The kernel of attention; blockwise: for CPUs, its memory grows with the context and not "
        "its square; cudnn: NVIDIA's GPUs in bfloat16; splash: TPUs; auto: cudnn or splash where "
        "it serves, on CPUs blockwise from 512 tokens on.",
        choices=KERNELS,
    )
    scan_layers: bool = described(
        False, "Run one compiled layer in a loop: compiles faster, steps slower."
    )
    remat: str = described(
        "none",
        "What the backward pass recomputes to save memory: attention keeps what fused kernels of "
        "attention return, dots products with weights, too.",
        choices=REMAT,
    )
    context_parallel: str = described(
        "all_gather",
        "Where the mesh splits time: each device holds all keys (all_gather), or a block of them "
        "at a time (ring).",
        choices=CONTEXT_PARALLEL,
    )

    @property
    def head_width(self) -> int:
        return self.head_dim or self.d_model // self.num_heads

    @property
    def rotary_width(self) -> int:
        return int(self.head_width * self.rotary_fraction)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def feed_forward_width(self) -> int:
        if self.d_ff:
            return self.d_ff
        return 64 * math.ceil(self.d_model / 24) if self.activation in GATES else 4 * self.d_model

    @property
    def mixes_windows(self) -> bool:
        """Whether some layers have the sliding window and others read everything."""
        return bool(self.global_every or self.global_first)

    def layer_kinds(self, num_layers: int) -> LayerKind | None:
        """Returns the kinds of all layers, bools [l]; None where all are alike."""
        if not self.mixes_windows and not self.unrotated_every:
            return None

        def but_every(nth: int) -> np.ndarray:
            return np.arange(1, num_layers + 1) % (nth or num_layers + 1) != 0

        windowed_l = but_every(self.global_every) & (np.arange(num_layers) >= self.global_first)
        return LayerKind(windowed_l, but_every(self.unrotated_every))

    def window(self, kind: LayerKind | None) -> jax.Array | int | None:
        """Returns the window of a layer, or those of several; None where none has one."""
        if self.mixes_windows and kind is not None:
            return jnp.where(kind.windowed, self.sliding_window, _NO_WINDOW)
        return self.sliding_window or None

    @property
    def expert_width(self) -> int:
        return self.d_expert or self.feed_forward_width

    def lengths(self) -> dict[str, int]:
        """Returns the fields that are lengths of sequences, with their values."""
        return {"context_length": self.context_length}

    def stacks(self) -> tuple[StackShape, ...]:
        """Returns the stacks of layers, an encoder first."""
        return (StackShape(self.context_length, self.num_layers),)

    def widths(self) -> tuple[str, ...]:
        """Returns the fields that muP scales, heads keeping their width; UserError if it cannot."""
        if self.scale_embeddings:
            raise UserError(
                "mup_base_width wants embeddings of one size at all widths, and "
                "model.scale_embeddings makes them grow as sqrt(d_model); set that to False"
            )
        return "d_model", "num_heads", "num_kv_heads", "d_ff", "d_expert", "d_shared_expert"

    def validate(self) -> None:
        """Raises UserError for fields that do not fit each other."""
        if not self.head_dim and self.d_model % self.num_heads:
            raise UserError(
                f"model.d_model {self.d_model} is not a multiple of model.num_heads "
                f"{self.num_heads}; change one of them, or set model.head_dim"
            )
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"model.num_heads {self.num_heads} is not a multiple of model.num_kv_heads "
                f"{self.kv_heads}; change one of them"
            )
        if self.parallel_blocks and NORM_ORDERS[self.norm_order].of_sum:
            single = (name for name, order in NORM_ORDERS.items() if not order.of_sum)
            raise UserError(
                "model.parallel_blocks adds attention and feed-forward in one sum, but "
                f"model.norm_order {self.norm_order} has a norm after each of two; take "
                f"{' or '.join(single)}"
            )
        for name in ("global_every", "global_first", "rotary_local_base"):
            if getattr(self, name) and not self.sliding_window:
                raise UserError(
                    f"model.{name} tells layers with a window from others, but "
                    "model.sliding_window is 0; set that to the tokens of the window"
                )
        deepest = max(stack.num_layers for stack in self.stacks())
        if self.global_first >= deepest:
            raise UserError(
                f"model.global_first is {self.global_first}, which leaves none of {deepest} layers "
                "the sliding window; choose fewer, or set model.sliding_window to 0"
            )
        if self.unrotated_every and not POSITIONS[self.positions].rotates:
            raise UserError(
                f"model.unrotated_every is {self.unrotated_every}, but model.positions "
                f"{self.positions} rotates no layer; set it to 0, or model.positions to rotary"
            )
        if self.num_experts and self.experts_per_token > self.num_experts:
            raise UserError(
                f"model.experts_per_token {self.experts_per_token} is more than model.num_experts "
                f"{self.num_experts}; choose at most that"
            )
        POSITIONS[self.positions].check(self)
        if self.relative_buckets % 4:
            raise UserError(
                f"model.relative_buckets is {self.relative_buckets}; expected a multiple of 4"
            )
        if self.relative_distance <= self.relative_buckets // 2:
            raise UserError(
                f"model.relative_distance is {self.relative_distance}; expected more than half of "
                f"model.relative_buckets {self.relative_buckets}"
            )


@dataclasses.dataclass
class TransformerConfig(BlocksConfig):
    """The shape of a decoder-only Transformer, such as GPT-2 or Llama."""


@dataclasses.dataclass
class EncoderConfig(BlocksConfig):
    """The shape of an encoder; the defaults are BERT's choices in miniature (Devlin et al. 2019).

    It predicts masked tokens; with `num_classes`, which labelled data fills in, it classifies.
    """

    norm_order: str = described_in(BlocksConfig, "norm_order", "post")
    norm_epsilon: float = described_in(BlocksConfig, "norm_epsilon", 1e-12)
    embedding_norm: bool = described_in(BlocksConfig, "embedding_norm", True)
    activation: str = described_in(BlocksConfig, "activation", "gelu")
    num_segment_types: int = described(
        0, "Types named by `segment_types` of a batch, 2 in BERT; 0: none.", minimum=0
    )
    mask_id: int = described(
        0, "The token of masked ones; 0: the last id, beyond the tokenizer's.", minimum=0
    )
    num_classes: int = described(
        0, "Classes of a classifier; 0: the labelled data's, none for masked_lm.", minimum=0
    )
    pooling: str = described(
        "mean",
        "What is classified: the mean of the text, or its first token, through BERT's pooler.",
        choices=POOLINGS,
    )


@dataclasses.dataclass
class EncoderDecoderConfig(BlocksConfig):
    """The shape of an encoder-decoder; the defaults are those of Vaswani et al., but pre-norm."""

    positions: str = described_in(BlocksConfig, "positions", "sinusoidal")
    scale_embeddings: bool = described_in(BlocksConfig, "scale_embeddings", True)
    activation: str = described_in(BlocksConfig, "activation", "relu")
    context_length: int = described(256, "Tokens of the longest row of targets.", minimum=1)
    source_length: int = described(256, "Tokens of the longest row of sources.", minimum=1)
    num_encoder_layers: int = described(
        0, "Layers of the encoder; 0: num_layers.", minimum=0, maximum=10_000
    )

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


def check_mesh(config: BlocksConfig, mesh: Mapping[str, int]) -> None:
    """Raises UserError for a mesh, sizes by axis, that cannot split a model evenly."""
    heads = {"num_heads": config.num_heads, "num_kv_heads": config.num_kv_heads}
    experts = {"num_experts": config.num_experts}
    split = {"tensor": heads, "sequence": config.lengths(), "expert": experts}
    for axis, fields in split.items():
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
