"""BERT and T5: arrays and configurations as those whose logits tests/parity compares."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_jax.data import train_tokenizer
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.interop.architectures import exported_as, our_config
from lm_jax.interop.export_model import write_model
from lm_jax.interop.export_tokenizer import tokenizer_json
from lm_jax.interop.import_model import import_model, lacks_head, open_model, read_arrays
from lm_jax.interop.t5 import T5
from lm_jax.nested import flatten
from lm_jax.runs.workdir import read_experiment
from lm_jax.training.checkpoints import SavedArray
from tests.parity import hugging_face

PAIRS = {
    "bert": (hugging_face.bert, "bert"),
    "t5 1.0": (hugging_face.t5, "t5"),
    "t5 1.1": (lambda: hugging_face.t5(tied=False), "t5"),
    "t5 1.1, wide heads": (lambda: hugging_face.t5(tied=False, head_width=6), "t5"),
}


def write_folder(pair, kind, directory, tensors):
    directory.mkdir()
    values = pair.peer.fields | {"model_type": kind, "architectures": [pair.peer.kind]}
    (directory / "config.json").write_text(json.dumps(values))
    save_file(tensors, directory / "model.safetensors")
    return open_model(directory)


@pytest.mark.parametrize("name", PAIRS)
def test_arrays_are_those_that_give_the_logits_of_transformers(name, tmp_path):
    build, kind = PAIRS[name]
    pair = build()
    tensors = pair.peer.weights()
    source = write_folder(pair, kind, tmp_path / "theirs", tensors)
    scale = source.config.logit_scale  # the pair holds it in its last norm
    arrays = read_arrays(source, tmp_path)
    expected = {
        path.replace(".", "/"): value for path, value in flatten(pair.variables["params"]).items()
    }
    assert arrays.keys() == expected.keys()
    for path, array in arrays.items():
        ours = array * np.float32(scale) if path == "decoder/final_norm/scale" else array
        np.testing.assert_allclose(ours, expected[path], 1e-6, err_msg=path)
    lengths = {n: getattr(pair.config, n) for n in pair.config.lengths()}
    ours = dataclasses.replace(source.config, logit_scale=1.0, **lengths)
    assert ours == dataclasses.replace(pair.config, **kept(source.config))

    (tmp_path / "again").mkdir()
    saved = {path: SavedArray(x.shape, x.dtype, lambda x=x: x) for path, x in arrays.items()}
    values = write_model(source.config, saved, tmp_path / "again")
    assert values == values | {
        field: pair.peer.fields.get(field, values[field]) for field in values
    }
    again = load_file(tmp_path / "again/model.safetensors")
    assert again.keys() == tensors.keys()
    for tensor, found in again.items():
        np.testing.assert_array_equal(found, tensors[tensor], err_msg=tensor)


def kept(config):
    """What a table cannot know: how an encoder pools."""
    return {"pooling": config.pooling} if "pooling" in vars(config) else {}


def test_a_t5_is_imported_without_pairs_to_read(tmp_path):
    pair = hugging_face.t5()
    tensors = pair.peer.weights()
    shared = {n: np.resize(x, (300, *x.shape[1:])) for n, x in tensors.items() if len(x) == 61}
    pair.peer.fields["vocab_size"] = 300
    write_folder(pair, "t5", tmp_path / "theirs", tensors | shared)
    characters = train_tokenizer(TokenizerConfig(kind="char"), ["abc"])
    (tmp_path / "theirs/tokenizer.json").write_text(tokenizer_json(characters))
    import_model(tmp_path / "theirs", tmp_path / "run", log=lambda _: None)
    read_experiment(tmp_path / "run").data.validate()


@pytest.mark.parametrize("is_scaled", [True, False])
def test_transformers_5_says_whether_a_tied_t5_scales_its_logits(is_scaled):
    fields = hugging_face.t5().peer.fields | {"scale_decoder_outputs": is_scaled}
    config = our_config(T5, fields)
    assert config.tie_embeddings and (config.logit_scale != 1) == is_scaled
    assert exported_as(config)[1]["scale_decoder_outputs"] == is_scaled


def test_a_bert_without_a_head_gets_one_that_is_drawn(tmp_path):
    pair = hugging_face.bert()
    weights = pair.peer.weights()
    tensors = {
        name.removeprefix("bert."): tensor
        for name, tensor in weights.items()
        if not name.startswith("cls.")
    } | {"pooler.dense.bias": np.zeros(3, np.float32), "embeddings.position_ids": np.arange(9)}
    source = write_folder(pair, "bert", tmp_path / "theirs", tensors)
    assert lacks_head(source)
    arrays = read_arrays(source, tmp_path)
    np.testing.assert_array_equal(arrays["head/norm/scale"], np.ones(32))
    np.testing.assert_array_equal(
        arrays["embedding"], weights["bert.embeddings.word_embeddings.weight"]
    )
