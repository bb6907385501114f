"""GPT-2 (Radford et al. 2019)."""

from lm_jax.interop.tables import THIRDS, Architecture, Row, dropout, named, norm, only, row, same

_LAYER = "transformer.h.{layer}"
_PARTS = ("query", "key", "value")
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}


def _conv1d(theirs: str, ours: str) -> tuple[Row, Row]:
    """Returns the rows of GPT-2's linear layers, which hold [i, o]."""
    return row(f"{theirs}.weight", f"{ours}/kernel"), row(f"{theirs}.bias", f"{ours}/bias")


def _attention(part: str, kind: str) -> Row:
    ours = tuple(f"layers/attention/{name}/{kind}" for name in _PARTS)
    return Row((f"{_LAYER}.attn.c_attn.{part}",), ours, THIRDS)


GPT2 = Architecture(
    model_type="gpt2",
    classes=("GPT2LMHeadModel", "GPT2Model"),
    family="transformer",
    objective="causal_lm",
    constants={"norm": "layer_norm", "norm_order": "pre", "positions": "learned", "use_bias": True},
    fields=(
        same("vocab_size", "vocab_size", 50257),
        same("n_positions", "context_length", 1024),
        same("n_embd", "d_model", 768),
        same("n_layer", "num_layers", 12),
        same("n_head", "num_heads", 12),
        same("n_inner", "d_ff", 0, lambda config: config.feed_forward_width),
        same("layer_norm_epsilon", "norm_epsilon", 1e-5),
        same("tie_word_embeddings", "tie_embeddings", True),
        named("activation_function", "activation", ACTIVATIONS, "gelu_new"),
        only("scale_attn_weights", True),
        only("scale_attn_by_inverse_layer_idx", False),
        only("add_cross_attention", False),
        dropout("embd_pdrop", "resid_pdrop", none=("attn_pdrop",)),
    ),
    rows=(
        row("transformer.wte.weight", "embedding"),
        row("transformer.wpe.weight", "positions"),
        *norm(f"{_LAYER}.ln_1", "layers/attention_norm"),
        _attention("weight", "kernel"),
        _attention("bias", "bias"),
        *_conv1d(f"{_LAYER}.attn.c_proj", "layers/attention/output"),
        *norm(f"{_LAYER}.ln_2", "layers/feed_forward_norm"),
        *_conv1d(f"{_LAYER}.mlp.c_fc", "layers/feed_forward/up"),
        *_conv1d(f"{_LAYER}.mlp.c_proj", "layers/feed_forward/down"),
        *norm("transformer.ln_f", "final_norm"),
        row("lm_head.weight", "output"),
    ),
    prefix="transformer.",
    left_out=("*.attn.bias", "*.attn.masked_bias", "lm_head.weight"),  # masks, and a copy
)
