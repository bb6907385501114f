"""Small random models of each architecture that weights are read from, as folders of files.

The names and shapes of their tensors and their config.json are recorded from transformers; the
weights are drawn by name, so that the tests write the same folders without it.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.parity.recorded import draws, reference

LIBRARIES = ("torch", "transformers")
VOCABULARY = 61


class Case(NamedTuple):
    """A model of transformers by the names of its classes, and the fields of its configuration."""

    kind: str
    config: str
    fields: dict[str, Any]


_GPT2 = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4}
_LLAMA = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
}
_NEOX = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def _rope(base: float, kind: str = "default", **scaling: Any) -> dict[str, Any]:
    factor = {} if kind == "default" else {"factor": 4.0}
    if kind == "llama3":
        factor |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {"rope_parameters": {"rope_type": kind, "rope_theta": base} | factor | scaling}


_GEMMA3_ROPE = {
    "full_attention": _rope(500.0, "linear")["rope_parameters"],
    "sliding_attention": _rope(100.0)["rope_parameters"],
}
_OLMO3_ROPE = {
    "full_attention": _rope(20.0, "yarn", original_max_position_embeddings=16)["rope_parameters"],
    "sliding_attention": _rope(20.0)["rope_parameters"],
}
CASES = {
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "gpt2, untied, relu": Case(
        "GPT2LMHeadModel",
        "GPT2Config",
        _GPT2 | {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "relu"},
    ),
    "llama": Case("LlamaForCausalLM", "LlamaConfig", _LLAMA | {"rope_theta": 500.0}),
    "llama, tied, wide heads": Case(
        "LlamaForCausalLM", "LlamaConfig", _LLAMA | {"tie_word_embeddings": True, "head_dim": 10}
    ),
    "llama 3": Case(
        "LlamaForCausalLM",
        "LlamaConfig",
        _LLAMA
        | _rope(20.0, "llama3", original_max_position_embeddings=16)
        | {"head_dim": 16, "num_key_value_heads": 6},
    ),
    "yarn": Case(
        "LlamaForCausalLM",
        "LlamaConfig",
        _LLAMA | _rope(20.0, "yarn", original_max_position_embeddings=64) | {"head_dim": 16},
    ),
    "linear": Case("LlamaForCausalLM", "LlamaConfig", _LLAMA | _rope(500.0, "linear")),
    "mistral, no window": Case(
        "MistralForCausalLM",
        "MistralConfig",
        _LLAMA
        | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 10}
        | {"sliding_window": None},
    ),
    "mistral": Case("MistralForCausalLM", "MistralConfig", _LLAMA | {"sliding_window": 6}),
    "gemma2": Case(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        _LLAMA
        | {"head_dim": 6, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        | {"sliding_window": 5, "query_pre_attn_scalar": 5},
    ),
    "gemma3": Case(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        _LLAMA
        | {"head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2}
        | {"query_pre_attn_scalar": 5, "rope_parameters": _GEMMA3_ROPE},
    ),
    "mixtral": Case(
        "MixtralForCausalLM",
        "MixtralConfig",
        _LLAMA | {"num_local_experts": 5, "num_experts_per_tok": 2},
    ),
    "qwen2 moe": Case(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        _LLAMA
        | {"num_experts": 6, "num_experts_per_tok": 4, "moe_intermediate_size": 12}
        | {"shared_expert_intermediate_size": 20},
    ),
    "qwen2 moe, window": Case(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        _LLAMA
        | {"num_experts": 6, "num_experts_per_tok": 4, "moe_intermediate_size": 12}
        | {"shared_expert_intermediate_size": 20, "use_sliding_window": True, "sliding_window": 5}
        | {"max_window_layers": 2},
    ),
    "qwen3 moe": Case(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        _LLAMA
        | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
        | {"head_dim": 10, "norm_topk_prob": True},
    ),
    "qwen3 moe, window": Case(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        _LLAMA
        | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
        | {"head_dim": 10, "norm_topk_prob": True}
        | {"use_sliding_window": True, "sliding_window": 5},
    ),
    "olmoe": Case(
        "OlmoeForCausalLM", "OlmoeConfig", _LLAMA | {"num_experts": 6, "num_experts_per_tok": 3}
    ),
    "neox": Case("GPTNeoXForCausalLM", "GPTNeoXConfig", _NEOX | {"partial_rotary_factor": 0.5}),
    "neox, one block after the other": Case(
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        _NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0},
    ),
    "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", _LLAMA),
    "qwen2, window": Case(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        _LLAMA
        | {"num_hidden_layers": 3, "max_window_layers": 1}
        | {"use_sliding_window": True, "sliding_window": 5},
    ),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", _LLAMA | {"head_dim": 10}),
    "olmo2": Case("Olmo2ForCausalLM", "Olmo2Config", _LLAMA),
    "olmo3": Case(
        "Olmo3ForCausalLM",
        "Olmo3Config",
        _LLAMA | {"sliding_window": 5, "num_hidden_layers": 4} | {"rope_parameters": _OLMO3_ROPE},
    ),
    "smollm3": Case(
        "SmolLM3ForCausalLM",
        "SmolLM3Config",
        _LLAMA
        | {"num_hidden_layers": 4, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
        | _rope(500.0),
    ),
}


def _files(case: Case) -> dict[str, np.ndarray]:
    """Returns the config.json and the shapes of the tensors that transformers writes, as JSON."""
    import transformers

    config = getattr(transformers, case.config)(**case.fields)
    with tempfile.TemporaryDirectory() as directory:
        getattr(transformers, case.kind)(config).save_pretrained(directory)
        values = json.loads((Path(directory) / "config.json").read_text())
        shapes = {
            name: list(tensor.shape)
            for name, tensor in load_file(f"{directory}/model.safetensors").items()
        }
    text = json.dumps({"config": values, "shapes": shapes})
    return {"json": np.frombuffer(text.encode(), np.uint8)}


def write_folder(name: str, directory: Path) -> dict[str, np.ndarray]:
    """Writes config.json and model.safetensors of a case, and returns the tensors."""
    found = reference(
        "pretrained", f"{name} files", lambda _: _files(CASES[name]), libraries=LIBRARIES
    )
    parts = json.loads(found["json"].tobytes())
    tensors = {}
    for tensor, shape in parts["shapes"].items():
        is_matrix = len(shape) > 1
        is_scale = not is_matrix and tensor.endswith("weight")
        drawn = draws(tensor, tuple(shape), 0.2 if is_matrix else 0.1)
        tensors[tensor] = drawn + np.float32(is_scale)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(parts["config"]))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return tensors


def load(name: str, directory: Path) -> Any:
    """Returns the PyTorch module of a folder."""
    import transformers

    return getattr(transformers, CASES[name].kind).from_pretrained(directory).eval()
