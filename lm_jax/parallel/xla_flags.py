"""Presets of XLA flags; each flag has a reason and differs from XLA's default.

XLA reads its flags once, when devices are first used, and aborts on an unknown flag; a test checks
each against the installed jaxlib. Their gain is not measured yet. The reasons come from NVIDIA's
guide, "Tips for High-Performance LLMs with JAX and XLA" (JAX-Toolbox, docs/GPU_performance.md).
"""

import os

from lm_jax.errors import UserError

# Training over several GPUs: data parallel and FSDP.
_GPU: dict[str, bool | int] = {
    # Overlaps collectives with matrix products that do not depend on them.
    "xla_gpu_enable_latency_hiding_scheduler": True,
    # In a loop over layers (model.scan_layers), gathers for the next layer and reduces for the last
    # one during the current layer. Reduce-scatter is pipelined by default.
    "xla_gpu_enable_pipelined_all_gather": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
    # Unrolls such a loop by two, so that buffers in flight need no copy.
    "xla_gpu_enable_while_loop_double_buffering": True,
}
PRESETS: dict[str, dict[str, bool | int]] = {
    "none": {},
    "gpu": _GPU,
    # For a tensor axis, collective matmul (Wang et al. 2023): splits a product into one piece per
    # device and sends each piece while the next is computed, whatever its size.
    "gpu_tensor": _GPU | {"xla_gpu_threshold_for_windowed_einsum_mib": 0},
}


# Fusions that also sum gradients need more memory than a core of these has, for some steps.
_WITHOUT_FUSED_SUMS = ("TPU v2", "TPU v3", "TPU v4")
_STEP_OPTIONS: dict[str, dict[str, bool | int]] = {
    # Products of one operand (queries, keys, values) are merged if their arrays are no larger. A
    # merged result is cut into copies, and its gradient is put together: more than is saved.
    "cuda": {"xla_gpu_dot_merger_threshold_mb": 16},
    # Sums gradients over devices beside the work that follows, inside its fusions. By default all
    # gradients wait for the last one and are summed together, which nothing hides.
    "tpu": {
        "xla_enable_async_all_reduce": True,
        "xla_tpu_enable_async_collective_fusion": True,
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
        "xla_jf_crs_combiner_threshold_in_bytes": 4_000_000,
    },
}


def step_options(target: str, device_kind: str) -> dict[str, bool | int]:
    """Returns the options of every train step for what it is compiled for.

    Args:
      target: cpu, cuda or tpu.
      device_kind: JAX's name of the device, such as `TPU v4`.
    """
    if device_kind in _WITHOUT_FUSED_SUMS:
        return {}
    return dict(_STEP_OPTIONS.get(target, {}))


def _devices_are_started() -> bool:
    """Returns whether JAX has started its devices, which other public questions would start.

    JAX refuses another number of CPU devices once they are started; the number is set back.
    """
    import jax  # here, because the names of presets need no JAX

    given = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_num_cpu_devices", given + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", given)
    return False


def use_preset(name: str) -> None:
    """Adds the flags of a preset to `XLA_FLAGS`; flags that are already set keep their values.

    Raises:
      UserError: there is no such preset, or devices are already in use.
    """
    if name not in PRESETS:
        raise UserError(f"XLA preset {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    if not PRESETS[name]:
        return
    if _devices_are_started():
        raise UserError(
            f"XLA preset {name} comes too late: XLA reads flags when devices are first used; "
            "call it before anything else of JAX"
        )
    flags = [f"--{flag}={str(value).lower()}" for flag, value in PRESETS[name].items()]
    # XLA takes the last value of a flag.
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
