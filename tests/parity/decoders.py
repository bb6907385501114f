"""Small decoders of Hugging Face transformers with odd choices, and the same weights as ours."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lm_jax.models.transformer.config import TransformerConfig
from tests.parity.hugging_face import Pair, Peer, Weights, draw_weights, linear, norm, stack

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
    "olmo3": (
        "Olmo3",
        {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
        | {
            "rope_parameters": {
                "full_attention": _rope(20.0, rope_type="linear", factor=4.0),
                "sliding_attention": _rope(20.0),
            }
        },
        {"norm_order": "post_block", "qk_norm": "all", "sliding_window": 5, "global_every": 2}
        | {"rotary_base": 20.0, "rotary_local_base": 20.0}
        | {"rotary_scaling": "linear", "rotary_factor": 4.0},
    ),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}, {"unrotated_every": 2}),
    "gemma2": (
        "Gemma2",
        _GEMMA
        | {"head_dim": 6, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        | {"sliding_window": 5},
        _OUR_GEMMA
        | {"head_dim": 6, "attention_soft_cap": 2.0, "logit_soft_cap": 3.0}
        | {"sliding_window": 5, "global_every": 2},
    ),
    "gemma3": (
        "Gemma3",
        _GEMMA
        | {"head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2}
        | {
            "rope_parameters": {
                "full_attention": _rope(500.0, rope_type="linear", factor=4.0),
                "sliding_attention": _rope(100.0),
            }
        },
        _OUR_GEMMA
        | {"head_dim": 8, "qk_norm": "head", "sliding_window": 4, "global_every": 2}
        | {"rotary_base": 500.0, "rotary_local_base": 100.0}
        | {"rotary_scaling": "linear", "rotary_factor": 4.0},
    ),
    "mistral": ("Mistral", {"sliding_window": 6}, {"sliding_window": 6}),
    "llama3": (
        "Llama",
        {
            "rope_parameters": _rope(
                20.0,
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=16,
            ),
            "head_dim": 16,
        },
        {
            "rotary_base": 20.0,
            "rotary_scaling": "llama3",
            "rotary_factor": 8.0,
            "rotary_original_length": 16,
            "head_dim": 16,
        },
    ),
    "yarn": (
        "Llama",
        {
            "rope_parameters": _rope(
                20.0,
                rope_type="yarn",
                factor=4.0,
                beta_fast=8.0,
                beta_slow=1.0,
                original_max_position_embeddings=64,
            ),
            "head_dim": 16,
        },
        {
            "rotary_base": 20.0,
            "rotary_scaling": "yarn",
            "rotary_factor": 4.0,
            "rotary_beta_fast": 8.0,
            "rotary_original_length": 64,
            "head_dim": 16,
        },
    ),
    "mixtral": (
        "Mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 2},
        {"num_experts": 5},
    ),
    "qwen2 moe": (
        "Qwen2Moe",
        {"num_experts": 6, "num_experts_per_tok": 4, "moe_intermediate_size": 12}
        | {"shared_expert_intermediate_size": 20},
        {"num_experts": 6, "experts_per_token": 4, "d_expert": 12, "d_shared_expert": 20}
        | {"qkv_bias": True, "normalize_expert_weights": False},
    ),
    "olmoe": (
        "Olmoe",
        {"num_experts": 6, "num_experts_per_tok": 3},
        {"num_experts": 6, "experts_per_token": 3, "qk_norm": "all"}
        | {"normalize_expert_weights": False},
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
_CONFIGS = {"Gemma3": "Gemma3TextConfig"}


def _with_equal_experts(shapes: dict[str, Any]) -> Weights:
    """Returns weights in which experts 1 and 2 are equal, and 3 and 4, and tie in every router.

    Which of two equal logits PyTorch takes depends on the CPU, so equal logits have equal experts.
    """
    found = draw_weights(shapes)
    for name, weight in found.items():
        if name.endswith("mlp.gate.weight") or ".mlp.experts." in name:
            weight[[2, 4]] = weight[[1, 3]]
    return found


def _mixture(w: Weights, at: str) -> dict[str, Any]:
    """Returns a mixture of experts, whose gates and ups are one array of transformers."""
    gate_efd, up_efd = np.split(w[f"{at}.experts.gate_up_proj"], 2, axis=1)
    kernels = {"gate": gate_efd, "up": up_efd, "down": w[f"{at}.experts.down_proj"]}
    found = {name: x.swapaxes(1, 2) for name, x in kernels.items()}
    found["router"] = w[f"{at}.gate.weight"].T
    if f"{at}.shared_expert_gate.weight" in w:
        shared = {n: linear(w, f"{at}.shared_expert.{n}_proj") for n in ("gate", "up", "down")}
        found |= {"shared": shared, "shared_gate": w[f"{at}.shared_expert_gate.weight"].T}
    return found


def decoder(name: str) -> Pair:
    """Returns a decoder whose weights are named as those of Llama."""
    family, theirs, ours = _DECODERS[name]
    fields = _SHAPE | {"rope_parameters": _rope()} | theirs
    config_type = _CONFIGS.get(family, f"{family}Config")
    draw = _with_equal_experts if family == "Mixtral" else draw_weights
    peer = Peer(name, f"{family}ForCausalLM", config_type, fields, draw, record="decoders")
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
        if config.num_experts:
            feed_forward = _mixture(w, hidden)
        else:
            feed_forward = {n: linear(w, f"{hidden}.{n}_proj") for n in ("gate", "up", "down")}
        return norms | {"attention": attention, "feed_forward": feed_forward}

    params = {
        "embedding": w["model.embed_tokens.weight"],
        "layers": stack([layer(f"model.layers.{i}") for i in range(config.num_layers)]),
        "final_norm": norm(w, "model.norm"),
    }
    if not config.tie_embeddings:
        params["output"] = w["lm_head.weight"]
    return Pair(peer, config, {"params": params})


def neox() -> Pair:
    """Returns a GPT-NeoX: parallel blocks, biases, and a quarter of each head rotated."""
    fields = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "hidden_act": "gelu",
              "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32,
              "rope_parameters": _rope(partial_rotary_factor=0.5), "use_parallel_residual": True,
              "tie_word_embeddings": False}  # fmt: skip
    peer = Peer("neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", fields, record="decoders")
    w = peer.weights()
    config = TransformerConfig(
        vocab_size=61,
        context_length=32,
        num_layers=2,
        d_model=32,
        d_ff=48,
        num_heads=4,
        activation="gelu",
        parallel_blocks=True,
        positions="rotary",
        rotary_fraction=0.5,
        tie_embeddings=False,
    )
    layers = [
        _fused_layer(w, f"gpt_neox.layers.{i}", "attention", config.num_heads) for i in range(2)
    ]
    params = {
        "embedding": w["gpt_neox.embed_in.weight"],
        "layers": stack(layers),
        "final_norm": norm(w, "gpt_neox.final_layer_norm"),
        "output": _output(w),
    }
    return Pair(peer, config, {"params": params})


def bloom() -> Pair:
    """Returns a BLOOM: ALiBi of six heads, and a norm of the embeddings."""
    fields = {"vocab_size": 61, "hidden_size": 24, "n_layer": 2, "n_head": 6,
              "layer_norm_epsilon": 1e-5, "bos_token_id": None, "eos_token_id": None}  # fmt: skip
    peer = Peer("bloom", "BloomForCausalLM", "BloomConfig", fields, record="decoders")
    w = peer.weights()
    config = TransformerConfig(
        vocab_size=61,
        context_length=32,
        num_layers=2,
        d_model=24,
        num_heads=6,
        positions="alibi",
        embedding_norm=True,
    )
    layers = [_fused_layer(w, f"transformer.h.{i}", "self_attention", 6) for i in range(2)]
    params = {
        "embedding": w["transformer.word_embeddings.weight"],
        "embedding_norm": norm(w, "transformer.word_embeddings_layernorm"),
        "layers": stack(layers),
        "final_norm": norm(w, "transformer.ln_f"),
    }
    return Pair(peer, config, {"params": params})


DECODERS: dict[str, Callable[[], Pair]] = {
    name: functools.partial(decoder, name) for name in _DECODERS
} | {"neox": neox, "bloom": bloom}
"""Name -> a function that makes the decoder."""


def _output(w: Weights) -> np.ndarray:
    return next(x for n, x in w.items() if n.startswith(("embed_out", "lm_head")))


def _fused_layer(w: Weights, at: str, attention: str, heads: int) -> dict[str, Any]:
    """Returns a layer whose queries, keys and values of each head lie side by side."""
    own, hidden = f"{at}.{attention}", f"{at}.mlp"
    fused = linear(w, f"{own}.query_key_value")
    found = {"output": linear(w, f"{own}.dense")}
    for index, name in enumerate(("query", "key", "value")):
        kernel = fused["kernel"].reshape(len(fused["kernel"]), heads, 3, -1)[:, :, index]
        bias = fused["bias"].reshape(heads, 3, -1)[:, index]
        found[name] = {"kernel": kernel.reshape(len(kernel), -1), "bias": bias.reshape(-1)}
    return {
        "attention": found,
        "attention_norm": norm(w, f"{at}.input_layernorm"),
        "feed_forward_norm": norm(w, f"{at}.post_attention_layernorm"),
        "feed_forward": {
            "up": linear(w, f"{hidden}.dense_h_to_4h"),
            "down": linear(w, f"{hidden}.dense_4h_to_h"),
        },
    }
