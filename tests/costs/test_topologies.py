"""Devices that are only described: what is refused, and what real compilers say of a small step."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled_cases import check
from lm_jax.costs import topologies
from lm_jax.errors import UserError
from lm_jax.models.target import made_for, target
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.models.transformer.flash_attention import kernel
from tests.launch.programs import ROOT


def device(platform, version, kind):
    client = SimpleNamespace(platform_version=version)
    return SimpleNamespace(platform=platform, client=client, device_kind=kind)


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (device("gpu", "PJRT C API\ncuda 12080", "Tesla V100-SXM2-16GB"), "cuda"),
        (device("gpu", "PJRT C API\nNVIDIA B200", "NVIDIA B200"), "cuda"),  # only described
        (device("gpu", "rocm 60200", "AMD Instinct MI300X"), "gpu"),
        (device("tpu", "TFRT TPU v5 lite", "TPU v5 lite"), "tpu"),
    ],
)
def test_models_are_made_for_the_device_that_is_named(described, expected):
    assert target() == "cpu"
    with made_for(described):
        assert target() == expected
        config = TransformerConfig(attention="auto", context_length=1024)
        attention = kernel(config, jnp.dtype("bfloat16"))
        assert attention == {"cuda": "cudnn", "tpu": "splash"}.get(expected, "xla")
        with made_for(jax.devices()[0]):
            assert target() == "cpu"
    assert target() == "cpu"


def test_models_ask_for_the_target_and_not_for_the_devices_of_the_process():
    asking = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lm_jax" / "models").rglob("*.py")
        if "default_backend" in path.read_text(encoding="utf-8")
    ]
    assert asking == []


def installed(monkeypatch, **versions):
    found = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(topologies, "_version", found.get)


def test_what_is_missing_is_named(monkeypatch):
    installed(monkeypatch, jax_cuda12_plugin=jax.__version__, libtpu="0.0.1")
    assert topologies.missing_wheels("h100") == [
        "jax-cuda12-pjrt",
        "nvidia-cuda-nvcc-cu12",
        "nvidia-cudnn-cu12",
    ]
    assert topologies.extra_of("h100") == "compile-gpu"
    assert topologies.extra_of("v6e") == "compile-tpu"


def test_a_compiler_of_another_version_is_refused(monkeypatch):
    others = {"nvidia_cuda_nvcc_cu12": "12.9", "nvidia_cudnn_cu12": "9.8.0"}
    current = {"jax_cuda12_plugin": jax.__version__, "jax_cuda12_pjrt": jax.__version__}
    installed(monkeypatch, **others, **current)
    assert topologies.missing_wheels("b200") == []
    installed(monkeypatch, **others, **current | {"jax_cuda12_pjrt": "0.4.30"})
    with pytest.raises(UserError, match=r"jax-cuda12-pjrt is version 0\.4\.30, but JAX .* needs"):
        topologies.missing_wheels("b200")
    monkeypatch.setattr(topologies.metadata, "requires", lambda _: ["libtpu==0.0.42.* ; extra"])
    installed(monkeypatch, libtpu="0.0.42.1")
    assert topologies.missing_wheels("v4") == []
    installed(monkeypatch, libtpu="0.0.421")
    with pytest.raises(UserError, match=r"libtpu is version 0\.0\.421, but JAX .* needs 0\.0\.42;"):
        topologies.missing_wheels("v4")


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("h100", 12, "12 devices of h100 fill no whole hosts of 8; give 1 to 8, or a multiple"),
        ("v5e", 6, "6 devices of v5e form no slice; give one of 1, 4, 8, 16, 32, 64, 128, 256"),
        ("v5p", 2, "2 devices of v5p form no slice; give one of 1, 4, 8"),
    ],
)
def test_a_number_that_forms_no_machine_is_refused(name, count, message):
    with pytest.raises(UserError, match=message):
        topologies.describe(name, count)


SMALL = [
    "--config=configs/quickstart.py",
    "--config.model.context_length=128",
    "--config.model.num_layers=1",
    "--config.model.d_model=128",
    "--config.model.num_heads=2",
    "--config.model.attention=auto",
    "--config.training.batch_size=16",
    "--config.evaluation.batch_size=16",
]


def needs_wheels(name):
    missing = topologies.missing_wheels(name)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h100", "b200"])
def test_a_gpus_program_has_fused_attention_and_gathers_in_the_background(name):
    needs_wheels(name)
    found = check([*SMALL, f"--accelerator={name}", "--devices=8", "--mesh=fsdp:8"])
    kinds = found["kernels"]
    assert found["compiler"].startswith("XLA for CUDA") and found["fits"] is True
    assert kinds["fused attention"]["launches"] == 2  # forward and backward
    assert found["flops"]["compiled_products"] == pytest.approx(found["flops"]["model"], rel=0.1)
    assert kinds["collectives"]["launches"] > 0
    assert 0 <= found["predicted"]["exposed_seconds"] < found["predicted"]["step_seconds"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("v4", 4), ("v5e", 4), ("v5p", 4), ("v6e", 4), ("v5e", 1), ("v5p", 1)]
)
def test_a_tpus_program_has_the_cycles_of_its_compiler(name, count):
    needs_wheels(name)
    found = check([*SMALL, f"--accelerator={name}", f"--devices={count}", f"--mesh=data:{count}"])
    assert found["compiler"].startswith("libtpu") and found["fits"] is True
    assert found["kernels"]["matrix products"]["seconds"] > 0
    assert found["predicted"]["step_seconds"] > 0
