"""A model that was imported is a work directory like any other, and goes out as it came in."""

import dataclasses
import json
import shutil

import flax
import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_jax.config.serialization import to_dict
from lm_jax.data import train_tokenizer
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.interop.architectures import ARCHITECTURES, exported_as, their_config
from lm_jax.interop.export_model import export_model, write_model
from lm_jax.interop.export_tokenizer import tokenizer_json
from lm_jax.interop.import_model import import_model, open_model, read_arrays
from lm_jax.models import FAMILIES, build_model
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.parameters import path_of
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.runs.continuation import Fork, refuse_another_experiment, refuse_missing_texts
from lm_jax.runs.evaluate import split_of
from lm_jax.runs.initial_state import fine_tuned
from lm_jax.runs.trained_run import load
from lm_jax.runs.workdir import read_experiment
from lm_jax.telemetry.json_files import write_json
from lm_jax.training.checkpoints import SavedArray
from tests.parity.pretrained import write_folder


@pytest.fixture
def folder(tmp_path):
    """A Llama in bfloat16 with a tokenizer of bytes."""
    path = tmp_path / "theirs"
    tensors = write_folder("llama", path)
    tensors |= {
        name: np.zeros((257, 24), np.float32) + tensors[name][0]
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    halved = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    save_file(halved, path / "model.safetensors")
    values = json.loads((path / "config.json").read_text()) | {"vocab_size": 257}
    (path / "config.json").write_text(json.dumps(values))
    bytes_ = train_tokenizer(TokenizerConfig(kind="byte"), [])
    (path / "tokenizer.json").write_text(tokenizer_json(bytes_))
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path


@pytest.mark.parametrize(("context", "rows"), [(16, 32), (4096, 4), (131_072, 1)])
def test_batches_of_an_imported_model_are_of_few_tokens(folder, tmp_path, context, rows):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"max_position_embeddings": context}))
    import_model(folder, tmp_path / "run", log=lambda _: None)
    config = read_experiment(tmp_path / "run")
    assert config.training.batch_size == config.evaluation.batch_size == rows


def test_an_imported_model_is_loaded_and_exported(folder, tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "out"
    import_model(folder, workdir, log=lambda _: None)
    run = load(workdir)
    tensors = load_file(folder / "model.safetensors")
    up_ldf = run.variables["params"]["layers"]["feed_forward"]["up"]["kernel"]
    assert up_ldf.dtype == np.float32
    expected = tensors["model.layers.1.mlp.up_proj.weight"].astype(np.float32).T
    np.testing.assert_array_equal(up_ldf[1], expected)
    assert run.tokenizer.decode(run.tokenizer.encode("naïve")) == "naïve"
    with pytest.raises(UserError, match="was imported and has no validation split.*--text=FILES"):
        split_of(run, "validation")
    for begin in (
        lambda: Fork(workdir, None, tmp_path / "new"),
        lambda: refuse_another_experiment(run.config, workdir),
    ):
        with pytest.raises(UserError, match=r"imported: .*--fine_tune .*--config.data.path=FILES"):
            begin()
    with pytest.raises(
        UserError, match="comes with no texts: name those to fine-tune on, --config"
    ):
        refuse_missing_texts(fine_tuned(None, workdir), workdir)
    texts = dataclasses.replace(run.config.data, source="files", path="mine.txt")
    refuse_missing_texts(dataclasses.replace(fine_tuned(None, workdir), data=texts), workdir)

    export_model(workdir, out, largest_shard=20_000, log=lambda _: None)
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in out.glob("*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    shards = {name: load_file(out / name) for name in set(index.values())}
    assert len(shards) > 1 and index.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = shards[index[name]][name]
        assert found.dtype == tensor.dtype
        np.testing.assert_array_equal(found, tensor, err_msg=name)
    assert all(sum(x.nbytes for x in shard.values()) <= 20_000 for shard in shards.values())
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    for name in ("chat_template.jinja", "tokenizer.json"):
        assert (out / name).read_text() == (folder / name).read_text()
    assert not list(tmp_path.glob("*.partial"))

    with pytest.raises(UserError, match="is not empty; choose another"):
        export_model(workdir, out)
    with pytest.raises(UserError, match="is not empty; choose another"):
        import_model(folder, workdir)


@pytest.mark.parametrize(("rotary_base", "length"), [(None, 32), (7.0, 8)])
def test_a_run_tuned_at_a_shorter_context_goes_out_with_that_of_its_model(
    rotary_base, length, folder, tmp_path
):
    """Unless its positions turn otherwise: then nothing was ever trained on the longer texts."""
    import_model(folder, tmp_path / "run", log=lambda _: None)
    shutil.copytree(tmp_path / "run", tmp_path / "tuned")
    experiment = fine_tuned(None, tmp_path / "run")
    changed = {} if rotary_base is None else {"rotary_base": rotary_base}
    model = dataclasses.replace(experiment.model, context_length=8, **changed)
    tuned = dataclasses.replace(experiment, model=model)
    write_json(tmp_path / "tuned/config.json", to_dict(tuned))
    export_model(tmp_path / "tuned", tmp_path / "out", log=lambda _: None)
    values = json.loads((tmp_path / "out/config.json").read_text())
    described = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert values["max_position_embeddings"] == described["model_max_length"] == length


DROPPED = {  # what each architecture calls the dropout of blocks, and of attention weights
    "gpt2": (("embd_pdrop", "resid_pdrop"), ("attn_pdrop",)),
    "gpt_neox": (("hidden_dropout",), ("attention_dropout",)),
    "bert": (("hidden_dropout_prob",), ("attention_probs_dropout_prob",)),
    "t5": (("dropout_rate",), ()),
}


@pytest.mark.parametrize("kind", DROPPED)
def test_what_a_model_drops_in_training_is_said(kind):
    architecture = ARCHITECTURES[kind]
    config = FAMILIES[architecture.family].config(
        **{**architecture.constants, "dropout_rate": 0.25, "activation": "gelu"}
    )
    if kind == "t5":
        config.activation = "geglu"
    values = their_config(architecture, config)
    ours, none = DROPPED[kind]
    assert [values[name] for name in (*ours, *none)] == [0.25] * len(ours) + [0.0] * len(none)


def test_special_tokens_are_named_where_transformers_has_others(language_model, folder, tmp_path):
    export_model(language_model, tmp_path / "out", log=lambda _: None)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    end = load(language_model).tokenizer.end_of_document
    ids = {name: values[name] for name in values if name.endswith("_token_id")}
    assert ids == {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}

    given = json.loads((folder / "config.json").read_text())
    del given["pad_token_id"]
    given |= {"bos_token_id": 1, "decoder_start_token_id": 3}
    (folder / "config.json").write_text(json.dumps(given))
    import_model(folder, tmp_path / "run", log=lambda _: None)
    export_model(tmp_path / "run", tmp_path / "again", log=lambda _: None)
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "pad_token_id" not in again  # as it came
    assert (again["bos_token_id"], again["decoder_start_token_id"]) == (1, 3)


def test_a_factor_on_logits_goes_into_the_last_norm(tmp_path):
    tensors = write_folder("gpt2", tmp_path / "theirs")
    source = open_model(tmp_path / "theirs")
    arrays = read_arrays(source, tmp_path)
    saved = {path: SavedArray(x.shape, x.dtype, lambda x=x: x) for path, x in arrays.items()}
    (tmp_path / "out").mkdir()
    config = dataclasses.replace(source.config, logit_scale=0.25)
    write_model(config, saved, tmp_path / "out")
    for name, found in load_file(tmp_path / "out/model.safetensors").items():
        factor = 0.25 if name.startswith("transformer.ln_f.") else 1
        np.testing.assert_array_equal(found, tensors[name] * np.float32(factor), err_msg=name)


@pytest.mark.parametrize("fields", [{}, {"positions": "rotary", "tie_embeddings": False}])
def test_a_model_without_biases_goes_out_with_biases_of_zero(fields, tmp_path):
    config = TransformerConfig(
        vocab_size=61, context_length=16, d_model=24, num_heads=4, num_layers=2, use_bias=False
    )
    config = dataclasses.replace(config, **fields)
    model = build_model(config, np.float32)
    tokens = np.random.default_rng(0).integers(61, size=(2, 16)).astype(np.int32)
    batch = {"inputs": tokens, "targets": tokens, "weights": np.ones((2, 16), np.float32)}
    variables = nn.meta.unbox(model.init(jax.random.key(0), batch))
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    arrays = {path_of(path): np.asarray(x) for path, x in leaves}
    assert not any(path.endswith("bias") for path in arrays)
    saved = {path: SavedArray(x.shape, x.dtype, lambda x=x: x) for path, x in arrays.items()}
    write_json(tmp_path / "config.json", write_model(config, saved, tmp_path))
    found = open_model(tmp_path)
    assert found.config.use_bias
    read = {"params": flax.traverse_util.unflatten_dict(read_arrays(found, tmp_path), sep="/")}
    there = build_model(found.config, np.float32)
    expected, _ = model.apply(variables, batch, train=False)
    np.testing.assert_allclose(there.apply(read, batch, train=False)[0], expected, atol=1e-6)


def test_the_nearest_architecture_has_words_for_all_but_what_is_named():
    config = TransformerConfig(vocab_size=9, use_bias=False, qk_norm="head")
    with pytest.raises(UserError, match="nearest is gpt2, which has no .*model.use_bias False"):
        exported_as(config)  # and not llama, which has no gelu, and no such norms and positions


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CausalCNNConfig(), "family causal_cnn has no counterpart in transformers; exported are"),
        (TransformerConfig(vocab_size=9, positions="alibi"), "nearest is gpt2.*positions alibi"),
        (TransformerConfig(vocab_size=9, qk_norm="head"), "nearest is gpt2.*qk_norm head"),
    ],
)
def test_a_model_without_a_counterpart_is_refused_by_what_it_has(config, message):
    with pytest.raises(UserError, match=message):
        exported_as(config)
