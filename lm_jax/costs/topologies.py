"""Devices that are only described, for the compilers of accelerators, which need none.

The compilers are Python wheels: XLA's plugin for CUDA with NVIDIA's assembler and cuDNN, or libtpu.
Nothing here looks for a device, or touches one.
"""

import os
import re
from collections.abc import Mapping
from importlib import metadata
from typing import NamedTuple

import jax
from jax.experimental import topologies

from lm_jax.errors import UserError

_GPUS_PER_HOST = 8


class Described(NamedTuple):
    """Devices to compile for, and how."""

    devices: tuple[jax.Device, ...]
    platform: str  # for jax.jit(f).trace(...).lower(lowering_platforms=(platform,))
    options: Mapping[str, str | bool]  # for .compile(options)
    compiler: str  # its wheel and version


class _Gpu(NamedTuple):
    """What XLA knows of a GPU; the last three fields are bytes."""

    kind: str  # `device_kind` of JAX
    capability: int
    cores: int
    units_per_core: int
    clock_ghz: float
    memory_bandwidth: int
    memory: int
    l2_cache: int
    memory_of_core: int


# Facts from XLA's repository, xla/backends/gpu/target_config/specs.
_GPUS = {
    "a100": _Gpu(
        "NVIDIA A100-SXM4-80GB",
        *(8, 108, 64, 1.41, 2_039_040_000_000, 85_100_068_864, 41_943_040, 167_936),
    ),
    "h100": _Gpu(
        "NVIDIA H100 80GB HBM3",
        *(9, 132, 128, 1.98, 3_352_320_000_000, 84_942_979_072, 52_428_800, 233_472),
    ),
    "h200": _Gpu(
        "NVIDIA H200",
        *(9, 132, 128, 1.98, 4_800_000_000_000, 151_397_597_184, 52_428_800, 233_472),
    ),
    "b200": _Gpu(
        "NVIDIA B200",
        *(10, 148, 128, 1.965, 7_672_320_000_000, 191_514_411_008, 132_644_864, 233_472),
    ),
}
_CUDA = (12, 8)

# Chips -> the torus that they form: cloud.google.com/tpu/docs.
_PLANES = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
_CUBES = {
    1: "1x1x1",
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
    4096: "16x16x16",
}
_TORI = {"v4": _CUBES, "v5e": _PLANES, "v5p": _CUBES, "v6e": _PLANES}

_GPU_WHEELS = (
    "jax-cuda12-plugin",
    "jax-cuda12-pjrt",
    "nvidia-cuda-nvcc-cu12",
    "nvidia-cudnn-cu12",
)
# Autotuning would run kernels. Without it XLA picks no good sizes for products of its own, so
# they are left to cuBLAS.
_GPU_OPTIONS: dict[str, str | bool] = {
    "xla_gpu_autotune_level": "0",
    "xla_gpu_enable_triton_gemm": False,
}


def extra_of(accelerator: str) -> str:
    """Returns the extra of this package that installs the compiler of an accelerator."""
    return "compile-gpu" if accelerator in _GPUS else "compile-tpu"


def missing_wheels(accelerator: str) -> list[str]:
    """Returns the wheels of an accelerator's compiler that are not installed.

    Raises:
      UserError: they are made for another version of JAX.
    """
    wheels = _GPU_WHEELS if accelerator in _GPUS else ("libtpu",)
    missing = [wheel for wheel in wheels if _version(wheel) is None]
    if not missing:
        _check_versions(accelerator)
    return missing


def _version(wheel: str) -> str | None:
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return None


def _check_versions(accelerator: str) -> None:
    expected = dict.fromkeys(_GPU_WHEELS[:2], jax.__version__)
    if accelerator not in _GPUS:
        named = re.search(r"libtpu==([\d.]+)\.\*", " ".join(metadata.requires("jax") or ()))
        expected = {"libtpu": named[1]} if named else {}
    for wheel, version in expected.items():
        if not f"{_version(wheel)}.".startswith(f"{version}."):
            raise UserError(
                f"{wheel} is version {_version(wheel)}, but JAX {jax.__version__} needs {version}; "
                f"install lm_jax[{extra_of(accelerator)}] again, beside this version of JAX"
            )


def describe(accelerator: str, count: int) -> Described:
    """Returns this many devices of a kind, none of which needs to exist.

    Its wheels must be installed: see `missing_wheels`.

    Raises:
      UserError: such a number of devices forms no machine.
    """
    return _gpus(accelerator, count) if accelerator in _GPUS else _tpus(accelerator, count)


def _gpus(accelerator: str, count: int) -> Described:
    if count > _GPUS_PER_HOST and count % _GPUS_PER_HOST:
        raise UserError(
            f"{count} devices of {accelerator} fill no whole hosts of {_GPUS_PER_HOST}; "
            f"give 1 to {_GPUS_PER_HOST}, or a multiple"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    hosts, each = max(1, count // _GPUS_PER_HOST), min(count, _GPUS_PER_HOST)
    described = topologies.get_topology_desc(
        platform="cuda",
        target_config=_target_config(_GPUS[accelerator]),
        topology=f"1x{hosts}x{each}",
    )
    compiler = f"XLA for CUDA, jax-cuda12-pjrt {_version('jax-cuda12-pjrt')}"
    return Described(tuple(described.devices), "cuda", _GPU_OPTIONS, compiler)


def _target_config(gpu: _Gpu) -> str:
    """Returns the text of XLA's GpuTargetConfigProto."""
    cudnn = (_version("nvidia-cudnn-cu12") or "").split(".")
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.memory_of_core}
  shared_memory_per_block_optin: {gpu.memory_of_core - 1024}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.memory_bandwidth}
  l2_cache_size: {gpu.l2_cache}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {gpu.memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {gpu.capability} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} }}
runtime_version {{ major: {_CUDA[0]} minor: {_CUDA[1]} patch: 0 }}
device_description_str: "{gpu.kind}"
"""


def _tpus(accelerator: str, count: int) -> Described:
    tori = _TORI[accelerator]
    if count not in tori:
        raise UserError(
            f"{count} devices of {accelerator} form no slice; give one of "
            f"{', '.join(map(str, tori))}"
        )
    # No question to the machine, which may be no TPU, and no lock: no device is touched.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    options: dict[str, object] = {}
    if count == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]  # three axes, also where chips form a plane
    if accelerator == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device
    described = topologies.get_topology_desc(f"{accelerator}:{tori[count]}", "tpu", **options)
    return Described(tuple(described.devices), "tpu", {}, f"libtpu {_version('libtpu')}")
