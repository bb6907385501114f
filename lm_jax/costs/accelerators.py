"""Accelerators by name: memory, peak FLOP/s and bandwidths from their makers' datasheets."""

from typing import NamedTuple

from lm_jax.errors import UserError


class Accelerator(NamedTuple):
    """One device; bandwidths are bytes per second sent, with equally many received."""

    memory_bytes: float
    peak_flops: float  # FLOP/s of dense bfloat16 matrix products
    link_bandwidth: float  # over all links to the devices of its domain
    domain: int  # devices connected by these links
    network_bandwidth: float  # per device, beyond the domain


# H100, H200: NVIDIA's datasheets of the SXM5 boards. 989 TFLOP/s without sparsity; NVLink 900 GB/s
#   in both directions together; a DGX or HGX system has eight boards and eight 400 Gb/s ports.
# v5e, v5p: cloud.google.com/tpu/docs/v5e and /v5p. ICI 400 and 1,200 GB/s in both directions
#   together, over the 4 and 6 links of a torus: one mesh axis can use a half or a third of it.
#   The network has 6.4 Tb/s per pod of 256 and 50 Gb/s per chip.
ACCELERATORS = {
    "h100": Accelerator(80e9, 989e12, 450e9, 8, 50e9),
    "h200": Accelerator(141e9, 989e12, 450e9, 8, 50e9),
    "v5e": Accelerator(16e9, 197e12, 200e9, 256, 3.125e9),
    "v5p": Accelerator(95e9, 459e12, 600e9, 8960, 6.25e9),
}
# `device_kind` of JAX -> name; other boards have other peaks.
_KINDS = {
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
}
# Usable share of the memory; the runtime, library workspaces and fragmentation take the rest.
USABLE = 0.9


def accelerator(name: str) -> Accelerator:
    """Returns the accelerator of a name.

    Raises:
      UserError: the name is unknown.
    """
    if name not in ACCELERATORS:
        raise UserError(f"unknown accelerator {name!r}; known are {', '.join(ACCELERATORS)}")
    return ACCELERATORS[name]


def name_of(device_kind: str) -> str | None:
    """Returns the name of the accelerator with this `device_kind` of JAX; None if unknown."""
    return _KINDS.get(device_kind)
