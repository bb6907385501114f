"""A GGUF file holds the same model as the folder that it was made from."""

import json
import struct

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
    writer.add_token_types(changes.get("types", [1] * 257 + [3]))
    writer.add_token_scores([0.0] * changes.get("scores", 258))
    writer.add_array("tokenizer.ggml.merges", ["t h"])
    writer.add_eos_token_id(changes.get("end", 257))
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
        ({"end": 258}, "eos_token_id is 258, and there are 258 tokens"),
        ({"types": [1, 3]}, "token_type has 2 items for 258 tokens"),
        ({"scores": 7, "model": "llama"}, "scores has 7 items for 258 tokens"),
        ({"pre": "command-r"}, "cuts words as command-r does.*supported are gpt-2"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, fields, message):
    write(tmp_path / "model.gguf", {}, **fields)
    with pytest.raises(UserError, match=message):
        read_gguf(tmp_path / "model.gguf")


def test_a_tensor_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "model.gguf", {"blk.0.attn_q.weight": np.zeros((26, 24), np.float32)})
    (tensor,) = read_gguf(tmp_path / "model.gguf").tensors.values()
    with pytest.raises(UserError, match="attn_q.weight has 26 rows, which are no pairs of 6 heads"):
        tensor.read()

    def dequantize(data, kind):
        raise NotImplementedError

    monkeypatch.setattr(gguf.quants, "dequantize", dequantize)
    (tensor,) = read_gguf(tmp_path / "model.gguf").tensors.values()
    with pytest.raises(UserError, match="attn_q.weight is of type F32, which gguf does not deq"):
        tensor.read()


def test_a_text_that_is_not_utf_8_is_one_line(file):
    file.write_bytes(file.read_bytes().replace(b"smollm", b"smol\xff\xff"))
    with pytest.raises(UserError, match="damaged or no GGUF .UnicodeDecodeError"):
        read_gguf(file)


def test_a_file_that_is_cut_off_is_refused(file):
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(
        UserError, match="damaged or cut off: its header names 2,064 bytes at 527 of 2,000"
    ):
        read_gguf(file)


def test_a_header_whose_lengths_lie_is_refused_before_it_is_read(file):
    content = file.read_bytes()
    name = b"tokenizer.ggml.tokens"
    length = content.index(name) + len(name) + 8  # behind the types of the field and its items
    for count in (2**40, 2**64 - 1, len(content) // 9):
        damaged = content[:length] + count.to_bytes(8, "little") + content[length + 8 :]
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="cut off: its header names .* copy it again"):
            read_gguf(file)
    for at in (8, 16):  # the numbers of tensors and of fields
        file.write_bytes(content[:at] + (2**40).to_bytes(8, "little") + content[at + 8 :])
        with pytest.raises(UserError, match=r"names [\d,]+ bytes at 24 of"):
            read_gguf(file)


def _big_endian(*, array_type: int, count: int, items: bytes) -> bytes:
    """The file of a big-endian machine with one array, and no tensors."""
    name = b"general.name"
    head = b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + struct.pack(">Q", len(name)) + name
    return head + struct.pack(">IIQ", 9, array_type, count) + items


@pytest.mark.parametrize("count", [17, 2**20, 2**63])
def test_the_header_of_a_big_endian_file_may_not_lie_either(count, tmp_path):
    file = tmp_path / "big.gguf"
    file.write_bytes(_big_endian(array_type=0, count=16, items=bytes(16)))
    with pytest.raises(UserError, match="of the architecture None"):  # it is read to its end
        read_gguf(file)
    file.write_bytes(_big_endian(array_type=0, count=count, items=bytes(16)))
    with pytest.raises(UserError, match="its header names"):
        read_gguf(file)


def test_arrays_of_more_items_than_any_vocabulary_has_are_refused(tmp_path):
    # gguf makes an object of each item: 3 MB of bytes take it 23 s and 2 GB.
    file = tmp_path / "many.gguf"
    file.write_bytes(_big_endian(array_type=0, count=3_000_000, items=bytes(3_000_000)))
    with pytest.raises(UserError, match="arrays of 3,000,000 items, more than 2,097,152; copy it"):
        read_gguf(file)
