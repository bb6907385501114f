"""Llama (Touvron et al. 2023) and what is built like it: Mistral, Qwen, OLMo, Gemma, mixtures."""

from collections.abc import Iterable
from typing import Any

from lm_jax.errors import UserError
from lm_jax.interop.rotary import (
    LOCAL_BASE,
    ROTARY,
    SWITCHED_WINDOW,
    UNROTATED,
    WINDOW_OF_LAST,
    WINDOW_OF_OTHER,
    pattern,
    window,
)
from lm_jax.interop.tables import (
    EXPERTS,
    ONE_PLUS,
    TRANSPOSED,
    Architecture,
    Field,
    Row,
    Values,
    linear,
    named,
    norm,
    only,
    row,
    same,
)

_LAYER = "model.layers.{layer}"
_GATES = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_GELU_GATE = {"gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_CONSTANTS = {
    "norm": "rms_norm",
    "norm_order": "pre",
    "positions": "rotary",
    "use_bias": False,
}
_ATTENTION = (
    *linear(f"{_LAYER}.self_attn.q_proj", "layers/attention/query"),
    *linear(f"{_LAYER}.self_attn.k_proj", "layers/attention/key"),
    *linear(f"{_LAYER}.self_attn.v_proj", "layers/attention/value"),
    *linear(f"{_LAYER}.self_attn.o_proj", "layers/attention/output"),
)
_QK_NORMS = (
    *norm(f"{_LAYER}.self_attn.q_norm", "layers/attention/query_norm"),
    *norm(f"{_LAYER}.self_attn.k_norm", "layers/attention/key_norm"),
)
_FEED_FORWARD = (
    *linear(f"{_LAYER}.mlp.gate_proj", "layers/feed_forward/gate"),
    *linear(f"{_LAYER}.mlp.up_proj", "layers/feed_forward/up"),
    *linear(f"{_LAYER}.mlp.down_proj", "layers/feed_forward/down"),
)
_ENDS = (
    row("model.embed_tokens.weight", "embedding"),
    *norm("model.norm", "final_norm"),
    row("lm_head.weight", "output"),
)
_PRE_NORMS = (
    *norm(f"{_LAYER}.input_layernorm", "layers/attention_norm"),
    *norm(f"{_LAYER}.post_attention_layernorm", "layers/feed_forward_norm"),
)
_ROWS: tuple[Row, ...] = (*_ENDS, *_PRE_NORMS, *_ATTENTION, *_FEED_FORWARD)
_LEFT_OUT = ("*.rotary_emb.inv_freq", "lm_head.weight")  # the second where it is a copy


def _kv_heads(default: int) -> Field:
    return same("num_key_value_heads", "num_kv_heads", default, lambda config: config.kv_heads)


def _other(fields: Iterable[Field], *others: Field) -> tuple[Field, ...]:
    """Returns fields of which some have another default."""
    by_name = {field.ours: field for field in others}
    return tuple(by_name.get(field.ours, field) for field in fields)


_SIZES = (
    same("vocab_size", "vocab_size"),
    same("max_position_embeddings", "context_length"),
    same("hidden_size", "d_model"),
    same("num_hidden_layers", "num_layers"),
    same("num_attention_heads", "num_heads"),
    _kv_heads(0),
    same("rms_norm_eps", "norm_epsilon", 1e-6),
    *ROTARY,
    only("attention_bias", False, None),
    only("partial_rotary_factor", 1.0),
)
_WIDTH = same("intermediate_size", "d_ff", None, lambda config: config.feed_forward_width)
_GATE = named("hidden_act", "activation", _GATES, "silu")
_UNTIED = same("tie_word_embeddings", "tie_embeddings", False)
_FIELDS = (*_SIZES, _WIDTH, _GATE, _UNTIED)
_EPSILON = same("rms_norm_eps", "norm_epsilon", 1e-5)
_HEAD_DIM = same("head_dim", "head_dim", 0, lambda config: config.head_width)
_NO_WINDOW = only("use_sliding_window", False)

LLAMA = Architecture(
    model_type="llama",
    classes=("LlamaForCausalLM", "LlamaModel"),
    family="transformer",
    objective="causal_lm",
    constants=_CONSTANTS,
    fields=(*_FIELDS, _HEAD_DIM, only("mlp_bias", False), only("pretraining_tp", 1)),
    rows=_ROWS,
    prefix="model.",
    left_out=_LEFT_OUT,
)
MISTRAL = LLAMA._replace(
    model_type="mistral",
    classes=("MistralForCausalLM", "MistralModel"),
    fields=(*_other(_FIELDS, _kv_heads(8)), _HEAD_DIM, window(4096)),
)
QWEN2 = LLAMA._replace(
    model_type="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    constants=_CONSTANTS | {"qkv_bias": True},
    fields=(*_other(_FIELDS, _kv_heads(32)), *WINDOW_OF_LAST),
)
QWEN3 = LLAMA._replace(
    model_type="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    constants=_CONSTANTS | {"qk_norm": "head"},
    fields=(
        *_other(_FIELDS, _kv_heads(32)),
        same("head_dim", "head_dim", 128, lambda config: config.head_width),
        *WINDOW_OF_LAST,
    ),
    rows=(*_ROWS, *_QK_NORMS),
)
OLMO2 = LLAMA._replace(
    model_type="olmo2",
    classes=("Olmo2ForCausalLM", "Olmo2Model"),
    constants=_CONSTANTS | {"norm_order": "post_block", "qk_norm": "all"},
    fields=_other(_FIELDS, _EPSILON),
    rows=(
        *_ENDS,
        *norm(f"{_LAYER}.post_attention_layernorm", "layers/attention_norm"),
        *norm(f"{_LAYER}.post_feedforward_layernorm", "layers/feed_forward_norm"),
        *_ATTENTION,
        *_QK_NORMS,
        *_FEED_FORWARD,
    ),
)
OLMO3 = OLMO2._replace(
    model_type="olmo3",
    classes=("Olmo3ForCausalLM", "Olmo3Model"),
    fields=(
        *_other(_FIELDS, _EPSILON, same("rope_theta", "rotary_base", 500_000.0)),
        window(4096),
        pattern(4),
        LOCAL_BASE,
    ),
)
SMOLLM3 = LLAMA._replace(
    model_type="smollm3",
    classes=("SmolLM3ForCausalLM", "SmolLM3Model"),
    fields=(
        *_other(
            _FIELDS,
            _kv_heads(4),
            same("rope_theta", "rotary_base", 2_000_000.0),
            same("tie_word_embeddings", "tie_embeddings", True),
        ),
        UNROTATED,
        # By default it is 128,004, which transformers looks up in any vocabulary.
        Field("", lambda values: None, lambda config: {"pad_token_id": None}),
        only("mlp_bias", False),
        _NO_WINDOW,
    ),
)

_GEMMA_NORMS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attention_post_norm",
    "pre_feedforward_layernorm": "feed_forward_norm",
    "post_feedforward_layernorm": "feed_forward_post_norm",
    "self_attn.q_norm": "attention/query_norm",
    "self_attn.k_norm": "attention/key_norm",
}


def _cap(theirs: str, ours: str, default: float | None) -> Field:
    """Returns a soft cap, which is null where there is none; transformers divides by 0."""

    def read(values: Values) -> float:
        given = values.get(theirs, default)
        return 0.0 if given is None else same(theirs, ours).read({theirs: given})

    return Field(ours, read, lambda config: {theirs: getattr(config, ours) or None})


_SCALE = "query_pre_attn_scalar"


def _scale(values: Values) -> float:
    scalar = same(_SCALE, "attention_scale", 256).read(values)
    if scalar <= 0:
        raise UserError(f"config.json: {_SCALE} is {scalar}; expected a number above 0")
    return scalar**-0.5


def _scalar(config: Any) -> Values:
    """Returns the number whose square root divides the scores, as an integer where it is one."""
    scalar = round((config.attention_scale or config.head_width**-0.5) ** -2, 6)
    return {_SCALE: int(scalar) if scalar.is_integer() else scalar}


GEMMA2 = LLAMA._replace(
    model_type="gemma2",
    classes=("Gemma2ForCausalLM", "Gemma2Model"),
    constants=_CONSTANTS | {"norm_order": "both", "scale_embeddings": True},
    fields=(
        *_other(_SIZES, _kv_heads(4)),
        _WIDTH,
        named("hidden_activation", "activation", _GELU_GATE, "gelu_pytorch_tanh"),
        same("tie_word_embeddings", "tie_embeddings", True),
        same("head_dim", "head_dim", 256, lambda config: config.head_width),
        Field("attention_scale", _scale, _scalar),
        _cap("attn_logit_softcapping", "attention_soft_cap", 50.0),
        _cap("final_logit_softcapping", "logit_soft_cap", 30.0),
        window(4096),
        pattern(2),
        only("use_bidirectional_attention", False, None),
    ),
    rows=(
        row("model.embed_tokens.weight", "embedding"),
        *norm("model.norm", "final_norm", ONE_PLUS),
        row("lm_head.weight", "output"),
        *(
            each
            for theirs, ours in _GEMMA_NORMS.items()
            for each in norm(f"{_LAYER}.{theirs}", f"layers/{ours}", ONE_PLUS)
        ),
        *_ATTENTION,
        *_FEED_FORWARD,
    ),
)
GEMMA3 = GEMMA2._replace(
    model_type="gemma3_text",
    classes=("Gemma3ForCausalLM", "Gemma3TextModel"),
    constants=dict(GEMMA2.constants) | {"qk_norm": "head"},
    fields=(
        *_other(
            (field for field in GEMMA2.fields if field.ours != "global_every"),
            same("rope_theta", "rotary_base", 1_000_000.0),
            _cap("attn_logit_softcapping", "attention_soft_cap", None),
            _cap("final_logit_softcapping", "logit_soft_cap", None),
        ),
        same("rope_local_base_freq", "rotary_local_base", 10_000.0),
        pattern(6),
    ),
)


def _experts(theirs: str, names: tuple[str, str, str]) -> tuple[Row, ...]:
    """Returns the rows of a mixture of experts, whose gate, up and down have these names."""
    at, ours = f"{_LAYER}.{theirs}", "layers/feed_forward"
    return (
        row(f"{at}.gate.weight", f"{ours}/router", TRANSPOSED),
        *(
            row(f"{at}.experts.{{expert}}.{name}.weight", f"{ours}/{part}", EXPERTS)
            for name, part in zip(names, ("gate", "up", "down"), strict=True)
        ),
    )


_NAMES = ("gate_proj", "up_proj", "down_proj")
_SHARED = f"{_LAYER}.mlp.shared_expert"
_MIXTURE = (
    *_FIELDS,
    same("num_experts_per_tok", "experts_per_token"),
    same("norm_topk_prob", "normalize_expert_weights", False),
)
_NUM_EXPERTS = Field(
    "num_experts",
    lambda values: same(
        "num_experts" if "num_experts" in values else "num_local_experts", "num_experts"
    ).read(values),
    lambda config: {"num_experts": config.num_experts},
)
_SPARSE = (only("decoder_sparse_step", 1), only("mlp_only_layers", [], None))
_EXPERT_WIDTH = same("moe_intermediate_size", "d_expert", None, lambda c: c.expert_width)
MIXTRAL = MISTRAL._replace(
    model_type="mixtral",
    classes=("MixtralForCausalLM", "MixtralModel"),
    constants=_CONSTANTS | {"normalize_expert_weights": True},
    fields=(
        *_other(_SIZES, _kv_heads(8), _EPSILON, same("rope_theta", "rotary_base", 1_000_000.0)),
        same("intermediate_size", "d_ff", None, lambda config: config.expert_width),
        _GATE,
        _UNTIED,
        _HEAD_DIM,
        window(0),
        same("num_local_experts", "num_experts"),
        same("num_experts_per_tok", "experts_per_token"),
    ),
    rows=(*_ENDS, *_PRE_NORMS, *_ATTENTION, *_experts("block_sparse_moe", ("w1", "w3", "w2"))),
)
QWEN2_MOE = QWEN2._replace(
    model_type="qwen2_moe",
    classes=("Qwen2MoeForCausalLM", "Qwen2MoeModel"),
    fields=(
        *_MIXTURE,
        _NUM_EXPERTS,
        _EXPERT_WIDTH,
        same("shared_expert_intermediate_size", "d_shared_expert"),
        *_SPARSE,
        *WINDOW_OF_OTHER,
    ),
    rows=(
        *_ENDS,
        *_PRE_NORMS,
        *_ATTENTION,
        *_experts("mlp", _NAMES),
        *linear(f"{_SHARED}.gate_proj", "layers/feed_forward/shared/gate"),
        *linear(f"{_SHARED}.up_proj", "layers/feed_forward/shared/up"),
        *linear(f"{_SHARED}.down_proj", "layers/feed_forward/shared/down"),
        row(f"{_SHARED}_gate.weight", "layers/feed_forward/shared_gate", TRANSPOSED),
    ),
)
QWEN3_MOE = QWEN3._replace(
    model_type="qwen3_moe",
    classes=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
    fields=(
        *_other(_MIXTURE, _kv_heads(4)),
        _NUM_EXPERTS,
        _HEAD_DIM,
        _EXPERT_WIDTH,
        *_SPARSE,
        SWITCHED_WINDOW,
    ),
    rows=(*_ENDS, *_PRE_NORMS, *_ATTENTION, *_QK_NORMS, *_experts("mlp", _NAMES)),
)
OLMOE = LLAMA._replace(
    model_type="olmoe",
    classes=("OlmoeForCausalLM", "OlmoeModel"),
    constants=_CONSTANTS | {"qk_norm": "all"},
    fields=(*_other(_MIXTURE, _EPSILON), _NUM_EXPERTS, only("clip_qkv", None)),
    rows=(*_ENDS, *_PRE_NORMS, *_ATTENTION, *_QK_NORMS, *_experts("mlp", _NAMES)),
)
LLAMA_LIKE = (LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, OLMO3, SMOLLM3, GEMMA2, GEMMA3) + (
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    OLMOE,
)
