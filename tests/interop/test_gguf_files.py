"""A GGUF file holds the same model as the folder that it was made from."""

import json

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from lm_jax.data import train_tokenizer
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.interop.export_tokenizer import tokenizer_json
from lm_jax.interop.gguf_files import read_gguf
from lm_jax.interop.import_model import FORMATS, open_model, read_arrays
from tests.parity.pretrained import write_folder

NAMES = {
    "embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.token_embd": "token_embd",
}


def permuted(weights, heads):
    """Rows as llama.cpp's converter permutes those of queries and keys."""
    return weights.reshape(heads, 2, -1, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def write(path, tensors, architecture="llama", **changes):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(32)
    writer.add_embedding_length(24)
    writer.add_block_count(2)
    writer.add_feed_forward_length(40)
    writer.add_head_count(6)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(500.0)
    vocabulary = json.loads(tokenizer_json(train_tokenizer(TokenizerConfig(kind="byte"), [])))
    tokens = vocabulary["model"]["vocab"] | {"th": 256, "<|endoftext|>": 257}
    writer.add_tokenizer_model(changes.get("model", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(sorted(tokens, key=tokens.__getitem__))
    writer.add_token_types([1] * 257 + [3])
    writer.add_array("tokenizer.ggml.merges", ["t h"])
    writer.add_eos_token_id(257)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def file(tmp_path):
    """A GGUF file and the folder with the same weights; the tokens do not fit, nobody asks."""
    tensors = write_folder("llama", tmp_path / "theirs")
    found = {}
    for name, tensor in tensors.items():
        if "q_proj" in name or "k_proj" in name:
            tensor = permuted(tensor, 6 if "q_proj" in name else 2)
        for theirs, short in NAMES.items():
            name = name.replace(theirs, short)
        found[name] = tensor
    write(tmp_path / "model.gguf", found)
    return tmp_path / "model.gguf"


def test_tensors_and_configuration_are_those_of_the_folder(file, tmp_path):
    for name in ("one", "other", "files"):
        (tmp_path / name).mkdir()
    source = FORMATS["gguf"](file, tmp_path / "files")
    source.config.vocab_size = 61
    theirs = open_model(tmp_path / "theirs")
    source.config.head_dim = source.config.head_width  # which the file leaves open
    assert source.config == theirs.config
    ours = read_arrays(source, tmp_path / "one")
    for path, expected in read_arrays(theirs, tmp_path / "other").items():
        np.testing.assert_array_equal(ours[path], expected, err_msg=path)


def test_the_tokenizer_cuts_digits_and_merges_what_the_file_says(file):
    text = read_gguf(file).files["tokenizer.json"].decode()
    described = json.loads(read_gguf(file).files["tokenizer_config.json"])
    assert described["add_bos_token"] is False  # as llama.cpp has it where a file does not say
    cut = Tokenizer.from_str(text).encode("the 42<|endoftext|>")
    assert cut.tokens == ["th", "e", "Ġ", "4", "2", "<|endoftext|>"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "mamba"}, "architecture mamba; supported are llama, qwen2, qwen3"),
        ({"model": "rwkv"}, "tokenizer of kind rwkv; supported are gpt2, llama"),
        ({"pre": "command-r"}, "cuts words as command-r does.*supported are gpt-2"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, fields, message):
    write(tmp_path / "model.gguf", {}, **fields)
    with pytest.raises(UserError, match=message):
        read_gguf(tmp_path / "model.gguf")


def test_a_file_that_is_cut_off_is_refused(file):
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged or no GGUF"):
        read_gguf(file)
