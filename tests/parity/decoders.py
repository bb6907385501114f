"""Small decoders of Hugging Face transformers with odd choices, and the same weights as ours."""

from typing import Any

import numpy as np

from lm_jax.models.transformer.config import TransformerConfig
from tests.parity.hugging_face import Pair, Peer, Weights, linear, norm, stack

_SHAPE = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
          "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 32,
          "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "pad_token_id": None,
          "bos_token_id": None, "eos_token_id": None}  # fmt: skip
_OURS = {"context_length": 32, "num_layers": 2, "d_model": 24, "d_ff": 40, "num_heads": 6,
         "num_kv_heads": 2, "norm": "rms_norm", "norm_epsilon": 1e-6, "activation": "swiglu",
         "positions": "rotary", "use_bias": False, "tie_embeddings": False}  # fmt: skip
_GEMMA = {"query_pre_attn_scalar": 5, "tie_word_embeddings": True,
          "hidden_activation": "gelu_pytorch_tanh"}  # fmt: skip
_OUR_GEMMA = {"norm_order": "both", "attention_scale": 5**-0.5, "scale_embeddings": True,
              "tie_embeddings": True, "activation": "geglu"}  # fmt: skip


def _rope(base: float = 10_000.0, **scaling: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": base} | scaling


# Name -> class of transformers, the fields of its configuration besides _SHAPE, and ours.
_DECODERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2": ("Qwen2", {}, {"qkv_bias": True}),
    "qwen3": ("Qwen3", {"head_dim": 6}, {"head_dim": 6, "qk_norm": "head"}),
    "olmo2": ("Olmo2", {}, {"norm_order": "post_block", "qk_norm": "all"}),
    "gemma2": (
        "Gemma2",
        _GEMMA
        | {"head_dim": 6, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        | {"sliding_window": 32},
        _OUR_GEMMA | {"head_dim": 6, "attention_soft_cap": 2.0, "logit_soft_cap": 3.0},
    ),
}
# Our norms of a layer -> theirs, by the order of norms.
_NORMS = {
    "pre": {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"},
    "post_block": {
        "attention_norm": "post_attention_layernorm",
        "feed_forward_norm": "post_feedforward_layernorm",
    },
    "both": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_post_norm": "post_feedforward_layernorm",
    },
}
DECODERS = tuple(_DECODERS)


def decoder(name: str) -> Pair:
    """Returns a decoder whose weights are named as those of Llama."""
    family, theirs, ours = _DECODERS[name]
    fields = _SHAPE | {"rope_parameters": _rope()} | theirs
    config_type = _CONFIGS.get(family, f"{family}Config")
    peer = Peer(name, f"{family}ForCausalLM", config_type, fields, record="decoders")
    w = peer.weights()
    if family.startswith("Gemma"):  # whose norms multiply by 1 + scale
        w = {n: x + np.float32(1) if "norm" in n else x for n, x in w.items()}
    config = TransformerConfig(**{"vocab_size": 61} | _OURS | ours)

    def layer(at: str) -> dict[str, Any]:
        own, hidden = f"{at}.self_attn", f"{at}.mlp"
        attention = {
            n: linear(w, f"{own}.{n[0]}_proj") for n in ("query", "key", "value", "output")
        }
        if config.qk_norm != "none":
            attention |= {f"{n}_norm": norm(w, f"{own}.{n[0]}_norm") for n in ("query", "key")}
        norms = {n: norm(w, f"{at}.{m}") for n, m in _NORMS[config.norm_order].items()}
        feed_forward = {n: linear(w, f"{hidden}.{n}_proj") for n in ("gate", "up", "down")}
        return norms | {"attention": attention, "feed_forward": feed_forward}

    params = _params(w, "model.layers", layer, config.num_layers)
    params |= {"embedding": w["model.embed_tokens.weight"], "final_norm": norm(w, "model.norm")}
    if not config.tie_embeddings:
        params["output"] = w["lm_head.weight"]
    return Pair(peer, config, {"params": params})


_CONFIGS = {"Gemma3": "Gemma3TextConfig"}


def _params(w: Weights, at: str, layer: Any, num_layers: int) -> dict[str, Any]:
    return {"layers": stack([layer(f"{at}.{i}") for i in range(num_layers)])}
