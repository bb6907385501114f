"""Models in GGUF, the format of llama.cpp, as the files and tensors of Hugging Face.

Weights are dequantised to float32. Axes: h heads, k head width, i inputs, o outputs.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.interop.gguf_header import check_header
from lm_jax.interop.tensor_files import Tensor

_LAYER = re.compile(r"^blk\.(\d+)\.")
_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""`general.architecture` -> class of transformers."""
_TURNED = {"llama": {"attn_q": "head_count", "attn_k": "head_count_kv"}}
"""Architectures that hold pairs for rotation side by side -> projection -> its number of heads."""
_FIELDS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    "gpt-2": "",
    "default": "",
    "smollm": "digits",
    "llama-bpe": rf"{_CONTRACTIONS}|\p{{N}}{{1,3}}{_REST}",
    "qwen2": rf"{_CONTRACTIONS}|\p{{N}}{_REST}",
}
"""`tokenizer.ggml.pre` -> the pattern that cuts words; empty: GPT-2's, digits: each alone."""
_OF_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What damaged lengths, types and texts raise, here and in gguf."""
_LONGEST_FAULT = 200  # characters
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens, as in sentencepiece


class GgufModel(NamedTuple):
    """A model of a GGUF file."""

    files: Mapping[str, bytes]  # what a folder of Hugging Face holds beside weights, by name
    tensors: Mapping[str, Tensor]  # by their names in transformers


def read_gguf(path: Path) -> GgufModel:
    """Returns the model of a file; its tensors are read when they are asked for.

    Raises:
      UserError: the file is damaged, or its architecture or tokenizer is not supported.
    """
    try:
        import gguf
    except ImportError:
        raise UserError("--from=gguf needs gguf: pip install -e '.[interop]'") from None
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the path of a *.gguf")
    check_header(path)
    try:
        return _model(path, gguf.GGUFReader(path), gguf.quants.dequantize)
    except UserError:
        raise
    except _OF_DAMAGE as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_FAULT]
        raise UserError(f"{path} is damaged or no GGUF ({what}); copy it again") from None


def _model(path: Path, reader: Any, dequantize: Callable) -> GgufModel:
    values = _Values(path, reader.fields)
    architecture = values.get("general.architecture")
    if architecture not in _CLASSES:
        raise UserError(
            f"{path} is of the architecture {architecture}; supported are {', '.join(_CLASSES)}"
        )
    tensors = {}
    for stored in reader.tensors:
        name, tensor = _tensor(path, values, architecture, stored, dequantize)
        tensors[name] = tensor
    config = _config(values, architecture, "lm_head.weight" not in tensors)
    files = {"config.json": _json(config), **_tokenizer_files(values)}
    return GgufModel(files, tensors)


class _Values(NamedTuple):
    """What a file says of its model, by name."""

    path: Path
    fields: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields[name].contents() if name in self.fields else default

    def token(self, kind: str, index: Any, tokens: Sequence[str]) -> str:
        if index not in range(len(tokens)):
            raise UserError(
                f"{self.path}: tokenizer.ggml.{kind}_token_id is {index!r}, and there are "
                f"{len(tokens):,} tokens; copy it again, or take another file"
            )
        return tokens[index]

    def of_tokens(self, name: str, tokens: Sequence[str]) -> Sequence[Any]:
        """Returns a list that has an item for each token."""
        found = self.need(name)
        if len(found) != len(tokens):
            raise UserError(
                f"{self.path}: {name} has {len(found):,} items for {len(tokens):,} tokens; copy it "
                "again, or take another file"
            )
        return found

    def need(self, name: str) -> Any:
        if name not in self.fields:
            raise UserError(f"{self.path} has no {name}; copy it again, or take another file")
        return self.get(name)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _config(values: _Values, architecture: str, is_tied: bool) -> dict[str, Any]:
    scaling = values.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise UserError(
            f"{values.path} scales its rotary positions ({scaling}), which is not supported in "
            "GGUF; take the weights in safetensors"
        )
    found = {theirs: values.get(f"{architecture}.{name}") for name, theirs in _FIELDS.items()}
    tokens = values.need("tokenizer.ggml.tokens")
    given = {name: _rounded(value) for name, value in found.items() if value is not None}
    ids = {name: values.get(f"tokenizer.ggml.{name}") for name in ("bos_token_id", "eos_token_id")}
    return {
        "architectures": [_CLASSES[architecture]],
        "model_type": architecture,
        "vocab_size": len(tokens),
        "tie_word_embeddings": is_tied,
        **given,
        **ids,
    }


def _rounded(value: Any) -> Any:
    """Returns a number as it was before it became a float32."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _tensor(
    path: Path, values: _Values, architecture: str, stored: Any, dequantize: Callable
) -> tuple[str, Tensor]:
    """Returns a tensor and its name in transformers; a name that has none there stays as it is."""
    layer = _LAYER.match(stored.name)
    short, dot, end = _LAYER.sub("", stored.name).partition(".")
    known = _OF_LAYER if layer else _OUTSIDE
    place = f"model.layers.{layer[1]}." if layer else ""
    name = f"{place}{known[short]}{dot}{end}" if short in known else stored.name
    shape = tuple(int(size) for size in reversed(stored.shape))
    heads = _TURNED.get(architecture, {}).get(short)

    def read() -> np.ndarray:
        try:
            array = dequantize(stored.data, stored.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"{path}: {stored.name} is of type {stored.tensor_type.name}, which gguf does not "
                "dequantise; take a file of another type, such as Q8_0"
            ) from None
        if not heads:
            return array
        count = values.need(f"{architecture}.attention.{heads}")
        if count not in range(1, len(array) + 1) or len(array) % (2 * count):
            raise UserError(
                f"{path}: {stored.name} has {len(array)} rows, which are no pairs of {count!r} "
                f"heads (attention.{heads}); copy it again"
            )
        return _halves(array, count)

    return name, Tensor(shape, np.dtype(np.float32), path.name, read)


def _halves(x: np.ndarray, heads: int) -> np.ndarray:
    """Returns outputs whose pairs for rotation are (i, i + k/2), from those with pairs (2i, 2i+1).

    llama.cpp permutes queries and keys of Llama when it converts them.
    """
    return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def _tokenizer_files(values: _Values) -> dict[str, bytes]:
    """Returns the files of the tokenizer."""
    kind = values.need("tokenizer.ggml.model")
    if kind not in _TOKENIZERS:
        raise UserError(
            f"{values.path} has a tokenizer of kind {kind}; supported are {', '.join(_TOKENIZERS)}"
        )
    tokens = values.need("tokenizer.ggml.tokens")
    described: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos", "eos"):
        index = values.get(f"tokenizer.ggml.{name}_token_id")
        if index is not None:
            described[f"{name}_token"] = values.token(name, index, tokens)
    # Where a file does not say, llama.cpp opens texts of these with their first token.
    opens = kind == "llama" or values.get("tokenizer.ggml.pre") == "llama-bpe"
    described["add_bos_token"] = values.get("tokenizer.ggml.add_bos_token", opens)
    if template := values.get("tokenizer.chat_template"):
        described["chat_template"] = template
    return {"tokenizer_config.json": _json(described), **_TOKENIZERS[kind](values, tokens)}


def _byte_pairs(values: _Values, tokens: Sequence[str]) -> dict[str, bytes]:
    pre = values.get("tokenizer.ggml.pre", "default")
    if pre not in _SPLITS:
        raise UserError(
            f"{values.path} cuts words as {pre} does (tokenizer.ggml.pre); supported are "
            f"{', '.join(_SPLITS)}"
        )
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps: list[dict[str, Any]] = [level | {"use_regex": _SPLITS[pre] in ("", "digits")}]
    if _SPLITS[pre] == "digits":
        steps.insert(0, {"type": "Digits", "individual_digits": True})
    elif _SPLITS[pre]:
        pattern = {"Regex": _SPLITS[pre]}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        steps.insert(0, split)
    types = values.of_tokens("tokenizer.ggml.token_type", tokens)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": index, "content": tokens[index], "special": kind == _CONTROL, **flags}
        for index, kind in enumerate(types)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    model = {
        "type": "BPE",
        "vocab": {token: index for index, token in enumerate(tokens)},
        "ignore_merges": pre == "llama-bpe",  # a word of the vocabulary is one token
        "merges": [merge.split(" ") for merge in values.need("tokenizer.ggml.merges")],
    }
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": level | {"use_regex": True},
        "model": model,
    }
    return {"tokenizer.json": _json(tokenizer)}


def _sentencepiece(values: _Values, tokens: Sequence[str]) -> dict[str, bytes]:
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2  # whose classes are made when it is imported
    model = proto.ModelProto()
    scores = values.of_tokens("tokenizer.ggml.scores", tokens)
    types = values.of_tokens("tokenizer.ggml.token_type", tokens)
    for piece, score, kind in zip(tokens, scores, types, strict=True):
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    for name, missing in (("unknown", 0), ("bos", -1), ("eos", -1)):
        index = values.get(f"tokenizer.ggml.{name}_token_id", missing)
        setattr(model.trainer_spec, f"{'unk' if name == 'unknown' else name}_id", index)
        if name != "unknown" and index >= 0:
            setattr(model.trainer_spec, f"{name}_piece", values.token(name, index, tokens))
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    prefix = values.get("tokenizer.ggml.add_space_prefix", True)
    model.normalizer_spec.add_dummy_prefix = prefix
    return {"tokenizer.model": model.SerializeToString()}


_TOKENIZERS: dict[str, Callable[[_Values, Sequence[str]], dict[str, bytes]]] = {
    "gpt2": _byte_pairs,
    "llama": _sentencepiece,
}
