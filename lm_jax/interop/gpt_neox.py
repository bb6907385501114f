"""GPT-NeoX (Black et al. 2022), the architecture of Pythia."""

import numpy as np

from lm_jax.interop.rotary import ROTARY
from lm_jax.interop.tables import (
    Architecture,
    Arrays,
    Row,
    Transform,
    dropout,
    linear,
    named,
    norm,
    only,
    row,
    same,
)

_LAYER = "gpt_neox.layers.{layer}"
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "relu": "relu"}


def _split(arrays: Arrays, config: object) -> Arrays:
    """Returns queries, keys and values, which lie side by side in each head: [h, 3, k] outputs."""
    (fused,) = arrays
    parts = fused.reshape(config.num_heads, 3, -1, *fused.shape[1:])  # type: ignore[attr-defined]
    return [parts[:, index].reshape(-1, *fused.shape[1:]).T for index in range(3)]


def _joined(arrays: Arrays, config: object) -> Arrays:
    heads = config.num_heads  # type: ignore[attr-defined]
    parts = [x.T.reshape(heads, 1, -1, *x.T.shape[1:]) for x in arrays]
    joined = np.concatenate(parts, axis=1)
    return [joined.reshape(-1, *joined.shape[3:])]


def _attention(part: str, kind: str) -> Row:
    ours = tuple(f"layers/attention/{name}/{kind}" for name in ("query", "key", "value"))
    return Row((f"{_LAYER}.attention.query_key_value.{part}",), ours, Transform(_split, _joined))


GPT_NEOX = Architecture(
    model_type="gpt_neox",
    classes=("GPTNeoXForCausalLM", "GPTNeoXModel"),
    family="transformer",
    objective="causal_lm",
    constants={"norm": "layer_norm", "norm_order": "pre", "positions": "rotary", "use_bias": True},
    fields=(
        same("vocab_size", "vocab_size"),
        same("max_position_embeddings", "context_length", 2048),
        same("hidden_size", "d_model"),
        same("num_hidden_layers", "num_layers"),
        same("num_attention_heads", "num_heads"),
        same("intermediate_size", "d_ff", None, lambda config: config.feed_forward_width),
        same("layer_norm_eps", "norm_epsilon", 1e-5),
        same("tie_word_embeddings", "tie_embeddings", False),
        same("use_parallel_residual", "parallel_blocks", True),
        same("rotary_pct", "rotary_fraction", 0.25),
        named("hidden_act", "activation", _ACTIVATIONS, "gelu"),
        *ROTARY,
        only("attention_bias", True),
        dropout("hidden_dropout", none=("attention_dropout",)),
    ),
    rows=(
        row("gpt_neox.embed_in.weight", "embedding"),
        *norm(f"{_LAYER}.input_layernorm", "layers/attention_norm"),
        _attention("weight", "kernel"),
        _attention("bias", "bias"),
        *linear(f"{_LAYER}.attention.dense", "layers/attention/output"),
        *norm(f"{_LAYER}.post_attention_layernorm", "layers/feed_forward_norm"),
        *linear(f"{_LAYER}.mlp.dense_h_to_4h", "layers/feed_forward/up"),
        *linear(f"{_LAYER}.mlp.dense_4h_to_h", "layers/feed_forward/down"),
        *norm("gpt_neox.final_layer_norm", "final_norm"),
        row("embed_out.weight", "output"),
    ),
    prefix="gpt_neox.",
    left_out=(
        "*.attention.bias",
        "*.attention.masked_bias",
        "*.rotary_emb.inv_freq",
        "embed_out.weight",
    ),
)
