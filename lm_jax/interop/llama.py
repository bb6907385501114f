"""Llama (Touvron et al. 2023) and what is built like it: Mistral, Qwen, OLMo 2."""

from lm_jax.interop.tables import Architecture, Row, linear, named, norm, only, row, same

_LAYER = "model.layers.{layer}"
_GATES = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
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
_FIELDS = (
    same("vocab_size", "vocab_size"),
    same("max_position_embeddings", "context_length"),
    same("hidden_size", "d_model"),
    same("num_hidden_layers", "num_layers"),
    same("num_attention_heads", "num_heads"),
    same("num_key_value_heads", "num_kv_heads", 0, lambda config: config.kv_heads),
    same("intermediate_size", "d_ff", None, lambda config: config.feed_forward_width),
    named("hidden_act", "activation", _GATES, "silu"),
    same("rms_norm_eps", "norm_epsilon", 1e-6),
    same("rope_theta", "rotary_base", 10_000.0),
    same("tie_word_embeddings", "tie_embeddings", False),
    only("rope_scaling", None),
)
_HEAD_DIM = same("head_dim", "head_dim", 0, lambda config: config.head_width)

LLAMA = Architecture(
    model_type="llama",
    classes=("LlamaForCausalLM", "LlamaModel"),
    family="transformer",
    objective="causal_lm",
    constants=_CONSTANTS,
    fields=(
        *_FIELDS,
        _HEAD_DIM,
        only("attention_bias", False),
        only("mlp_bias", False),
        only("pretraining_tp", 1),
    ),
    rows=_ROWS,
    prefix="model.",
    left_out=_LEFT_OUT,
)
MISTRAL = LLAMA._replace(
    model_type="mistral",
    classes=("MistralForCausalLM", "MistralModel"),
    fields=(*_FIELDS, _HEAD_DIM, only("sliding_window", None)),
)
QWEN2 = LLAMA._replace(
    model_type="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    constants=_CONSTANTS | {"qkv_bias": True},
    fields=(*_FIELDS, only("use_sliding_window", False)),
)
QWEN3 = LLAMA._replace(
    model_type="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    constants=_CONSTANTS | {"qk_norm": "head"},
    fields=(*_FIELDS, _HEAD_DIM, only("attention_bias", False), only("use_sliding_window", False)),
    rows=(*_ROWS, *_QK_NORMS),
)
OLMO2 = LLAMA._replace(
    model_type="olmo2",
    classes=("Olmo2ForCausalLM", "Olmo2Model"),
    constants=_CONSTANTS | {"norm_order": "post_block", "qk_norm": "all"},
    fields=(*_FIELDS, only("attention_bias", False)),
    rows=(
        *_ENDS,
        *norm(f"{_LAYER}.post_attention_layernorm", "layers/attention_norm"),
        *norm(f"{_LAYER}.post_feedforward_layernorm", "layers/feed_forward_norm"),
        *_ATTENTION,
        *_QK_NORMS,
        *_FEED_FORWARD,
    ),
)
