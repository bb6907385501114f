"""What cannot be imported is refused in a line that names it, and leaves nothing behind."""

import errno
import json
import resource

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_jax.config.serialization import dumps
from lm_jax.errors import UserError
from lm_jax.interop.architectures import ARCHITECTURES, our_config
from lm_jax.interop.import_model import import_model, open_model, read_arrays
from lm_jax.interop.tensor_files import Planned, write_tensors
from lm_jax.interop.whole_directory import whole_directory
from lm_jax.runs.workdir import imported_folder
from tests.experiments import tiny
from tests.parity.pretrained import write_folder


@pytest.fixture
def folder(tmp_path):
    write_folder("llama", tmp_path / "theirs")
    return tmp_path / "theirs"


def set_fields(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["BloomForCausalLM"], "model_type": "bloom"}, "BloomForCausalLM.*Llama"),
        ({"hidden_act": "relu6"}, "hidden_act is 'relu6'; supported are silu"),
        ({"rope_parameters": {"rope_type": "made_up", "rope_theta": 9.0}}, "made_up"),
        ({"rope_scaling": {"type": "made_up"}, "rope_parameters": None}, "made_up"),
        ({"rope_parameters": {"rope_type": ["yarn"]}}, r"rope_type is \['yarn'\]; expected a name"),
        ({"rope_parameters": ["yarn"]}, r"rope_parameters is \['yarn'\], no object"),
        (
            {"rope_parameters": {"full_attention": {}, "sliding_attention": "x"}},
            "sliding_attention of rope_parameters is 'x', no object",
        ),
        ({"attention_bias": True}, "attention_bias is True; supported is False"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"hidden_size": "24"}, "hidden_size is '24'; expected a number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; expected true or false"),
        ({"num_key_value_heads": 4}, "num_heads 6 is not a multiple of model.num_kv_heads 4"),
        ({"model_type": ["llama"]}, "supported are"),
    ],
)
def test_a_configuration_that_is_not_supported_is_named(folder, fields, message):
    set_fields(folder, **fields)
    with pytest.raises(UserError, match=message):
        open_model(folder)


@pytest.mark.parametrize("layers", [10_001, 10**8])
def test_layers_without_number_are_refused_before_they_are_counted(folder, layers):
    """10**8 of them kept an import busy for more than 80 s before it looked at the tensors."""
    set_fields(folder, num_hidden_layers=layers)
    with pytest.raises(UserError, match="num_layers is 1.*expected 1 <= num_layers <= 10000"):
        open_model(folder)


def test_missing_left_over_and_misshaped_tensors_are_named(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((40, 23), np.float32)
    tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((40, 24), np.float32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        read_arrays(open_model(folder), tmp_path)
    for part in (
        "lacks model.norm.weight",
        "does not have: model.layers.2.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight [40, 23] instead of [40, 24]",
    ):
        assert part in str(error.value)


def _cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def _pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _none(folder):
    (folder / "model.safetensors").unlink()


def _quantised(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    save_file(tensors, folder / "model.safetensors")


def _index_of(name):
    def write(folder):
        index = {"weight_map": {"model.norm.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return write


def _no_config(folder):
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_off, "model.safetensors is damaged"),
        (_pickled, r"pickled weights \(pytorch_model.bin\).*safetensors"),
        (_none, "no weights; expected model.safetensors"),
        (_quantised, r"quantised weights: model.norm.weight \(I8\)"),
        (_index_of("model-00001-of-00001.safetensors"), "lacks model-00001-of-00001.safetensors"),
        (_index_of("../theirs/model.safetensors"), "expected the name of a file beside it"),
        (_index_of(3), "names 3; expected the name of a file beside it"),
        (_no_config, "no config.json"),
    ],
)
def test_files_that_cannot_be_read_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        read_arrays(open_model(folder), folder)


def test_a_folder_without_a_tokenizer_is_refused_and_nothing_is_written(folder, tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer; expected tokenizer\.json"):
        import_model(folder, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("given", "message"),
    [(0, "is 0; expected a number above 0"), ("x", "'x'; expected a number")],
)
def test_a_scale_of_attention_that_is_no_number_above_0_is_named(given, message):
    values = {name: 8 for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    values |= {"max_position_embeddings": 8, "num_attention_heads": 4, "intermediate_size": 8}
    with pytest.raises(UserError, match=message):
        our_config(ARCHITECTURES["gemma2"], values | {"query_pre_attn_scalar": given})


def _kinds(whole, windowed):
    kinds = ["full_attention"] * whole + ["sliding_attention"] * windowed
    return {"layer_types": kinds}


@pytest.mark.parametrize("layers", [[1, 0, 0, 1], [0, 1], "none", [1, None], [True, "0"]])
def test_layers_without_positions_come_at_every_nth_place(layers):
    sizes = {"vocab_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 8}
    sizes |= {"max_position_embeddings": 8, "num_attention_heads": 32, "num_key_value_heads": 4}
    with pytest.raises(UserError, match=r"^config.json: no_rope_layers is "):
        our_config(ARCHITECTURES["smollm3"], sizes | {"no_rope_layers": layers})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, (0, 0)),
        ({"use_sliding_window": True}, (0, 0)),  # after layer 28
        ({"use_sliding_window": True, "max_window_layers": 3}, (4096, 3)),
        ({"use_sliding_window": True, "max_window_layers": 3, "sliding_window": None}, (0, 0)),
        ({"sliding_window": 5, "max_window_layers": 3}, (0, 0)),
        ({"use_sliding_window": True} | _kinds(2, 2), (4096, 2)),
        ({"use_sliding_window": True} | _kinds(4, 0), (0, 0)),
        ({"use_sliding_window": 1}, "use_sliding_window is 1; expected true or false"),
        ({"use_sliding_window": True, "layer_types": "all"}, "layer_types is 'all'; expected a"),
        (
            {"use_sliding_window": True, "layer_types": _kinds(1, 1)["layer_types"] * 2},
            "supported is sliding_attention of the last layers",
        ),
    ],
)
def test_windows_of_qwen_are_those_of_its_last_layers(given, found):
    values = {name: 64 for name in ("vocab_size", "hidden_size", "max_position_embeddings")}
    values |= {"num_hidden_layers": 4, "intermediate_size": 8, "num_attention_heads": 32} | given
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            our_config(ARCHITECTURES["qwen2"], values)
    else:
        config = our_config(ARCHITECTURES["qwen2"], values)
        assert (config.sliding_window, config.global_first) == found


def test_windows_of_qwen2_moe_are_those_of_every_other_layer():
    values = {name: 64 for name in ("vocab_size", "hidden_size", "max_position_embeddings")}
    values |= {"num_hidden_layers": 4, "moe_intermediate_size": 8, "num_attention_heads": 32}
    values |= {"shared_expert_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
    values |= {"use_sliding_window": True, "intermediate_size": 8}

    def windows(**given):
        config = our_config(ARCHITECTURES["qwen2_moe"], values | given)
        return config.sliding_window, config.global_every

    assert windows() == (4096, 2)
    assert windows(**_kinds(4, 0)) == windows(max_window_layers=0) == (0, 0)
    with pytest.raises(UserError, match="max_window_layers is 3; supported is num_hidden_layers"):
        windows(max_window_layers=3)


def test_what_a_configuration_leaves_out_is_what_transformers_takes():
    """The defaults of the configurations of transformers 5.24."""
    sizes = {"vocab_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 8}
    sizes |= {"max_position_embeddings": 8, "num_attention_heads": 32, "rope_scaling": None}
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2}
    expected = {
        "mistral": {"num_kv_heads": 8, "norm_epsilon": 1e-6, "sliding_window": 4096},
        "mixtral": {"num_kv_heads": 8, "norm_epsilon": 1e-5, "rotary_base": 1e6},
        "qwen3": {"num_kv_heads": 32, "head_dim": 128, "norm_epsilon": 1e-6},
        "olmo2": {"norm_epsilon": 1e-5, "rotary_base": 1e4},
        "olmo3": {"rotary_base": 5e5, "rotary_local_base": 5e5, "global_every": 4},
        "smollm3": {"num_kv_heads": 4, "rotary_base": 2e6, "unrotated_every": 4},
        "gemma2": {"num_kv_heads": 4, "attention_soft_cap": 50.0, "logit_soft_cap": 30.0},
        "gemma3_text": {"num_kv_heads": 4, "attention_soft_cap": 0.0, "rotary_base": 1e6},
    }
    for name, fields in expected.items():
        given = sizes | (experts if name == "mixtral" else {})
        config = our_config(ARCHITECTURES[name], given)
        assert {field: getattr(config, field) for field in fields} == fields, name
    capped = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    assert our_config(ARCHITECTURES["gemma2"], sizes | capped).logit_soft_cap == 0


def test_runs_that_name_each_other_as_their_beginning_have_no_imported_folder(tmp_path):
    experiment = tiny()
    for name, other in (("a", "b"), ("b", "a")):
        experiment.fine_tuning.workdir = str(tmp_path / other)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(dumps(experiment))
    assert imported_folder(tmp_path / "a") is None


def test_two_that_write_one_directory_do_not_share_what_they_write(tmp_path):
    with whole_directory(tmp_path / "run", "--workdir") as first:
        with whole_directory(tmp_path / "run", "--workdir") as second:
            assert first != second and second.is_dir()
        assert first.is_dir()
        (tmp_path / "run").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_file_that_cannot_be_written_is_named_as_it_is_called_in_the_end(tmp_path):
    with pytest.raises(OSError, match="No space") as found:
        with whole_directory(tmp_path / "exported", "--path") as partial:
            raise OSError(errno.ENOSPC, "No space left on device", str(partial / "config.json"))
    assert found.value.filename == str(tmp_path / "exported" / "config.json")
    with pytest.raises(OSError, match="stale") as found:
        with whole_directory(tmp_path / "exported", "--path"):
            raise OSError(errno.ESTALE, "stale", str(tmp_path / "run"))  # that is read
    assert found.value.filename == str(tmp_path / "run") and not list(tmp_path.iterdir())


def test_a_full_disk_under_weights_is_an_error_of_the_system(tmp_path):
    planned = [Planned("weights", (100_000,), np.dtype(np.float32))]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="large") as found:
            write_tensors(tmp_path, planned, [np.zeros(100_000, np.float32)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found.value.filename == str(tmp_path / "model.safetensors")
    assert found.value.errno == errno.EFBIG


def test_a_full_disk_under_an_import_is_an_error_of_the_system(folder, tmp_path):
    source = open_model(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OSError, match="large") as found:
            read_arrays(source, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found.value.filename.startswith(str(tmp_path))
