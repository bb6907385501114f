"""Compiler flags by the name of their purpose, each with why, and none that is XLA's default.

XLA reads them once, when its devices are first asked for, and aborts on one that it does not know:
the tests ask the installed jaxlib about each. What they gain is not yet measured here; the reasons
are those of NVIDIA's guide, "Tips for High-Performance LLMs with JAX and XLA" (JAX-Toolbox,
docs/GPU_performance.md).
"""

import os

from jax._src import xla_bridge  # who alone knows; jax.extend would start the devices

from lm_jax.errors import UserError

# Training over several GPUs: data parallel and FSDP.
_GPU: dict[str, bool | int] = {
    # Collectives run while products that do not need them do; the order of the program hides them.
    "xla_gpu_enable_latency_hiding_scheduler": True,
    # In a loop over layers (model.scan_layers) what the next layer needs is gathered during this
    # one, and what the last one leaves is summed. Reduce-scatter is pipelined by default.
    "xla_gpu_enable_pipelined_all_gather": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
    # Two rounds of such a loop at once, so that what is in flight needs no copy.
    "xla_gpu_enable_while_loop_double_buffering": True,
}
PRESETS: dict[str, dict[str, bool | int]] = {
    "none": {},
    "gpu": _GPU,
    # With a tensor axis also collective matmul (Wang et al. 2023): a product is cut into as many
    # pieces as there are devices, and each is sent while the next is computed, whatever its size.
    "gpu_tensor": _GPU | {"xla_gpu_threshold_for_windowed_einsum_mib": 0},
}


def use_preset(name: str) -> None:
    """Adds the flags of a preset to `XLA_FLAGS`; of a flag that is there already that value stays.

    Raises:
      UserError: there is no such preset, or it comes after the devices were asked for.
    """
    if name not in PRESETS:
        raise UserError(f"XLA preset {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    if not PRESETS[name]:
        return
    if xla_bridge.backends_are_initialized():
        raise UserError(
            f"XLA preset {name} comes too late: flags are read when devices are first asked for; "
            "use it before anything else of JAX"
        )
    flags = [f"--{flag}={str(value).lower()}" for flag, value in PRESETS[name].items()]
    # XLA takes the last value of a flag.
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
