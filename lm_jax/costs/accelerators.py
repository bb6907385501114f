"""Accelerators by name: memory, peak FLOP/s and bandwidths from their makers' datasheets."""

from typing import NamedTuple

from lm_jax.errors import UserError


class Accelerator(NamedTuple):
    """One device; bandwidths are bytes per second, of links as sent, with equally many received."""

    memory_bytes: float
    peak_flops: float  # FLOP/s of dense bfloat16 matrix products
    memory_bandwidth: float
    link_bandwidth: float  # over all links to the devices of its domain
    domain: int  # devices connected by these links
    network_bandwidth: float  # per device, beyond the domain
    ring: float = 1.0  # the part of the link bandwidth that one ring through a torus uses
    clock: float = 0.0  # cycles per second of a TPU's cores; 0: the compiler counts none


# A100, H100, H200, B200: NVIDIA's datasheets of the SXM boards, without sparsity, and memory
#   bandwidths as XLA reads them from the boards (xla/backends/gpu/target_config/specs). NVLink 600,
#   900, 900 and 1,800 GB/s in both directions together; a DGX or HGX system has eight boards, each
#   with a port of 200 (A100) or 400 Gb/s.
# v4, v5e, v5p, v6e: cloud.google.com/tpu/docs. ICI 600, 400, 1,200 and 800 GB/s in both directions
#   together, over the 6 links of a torus (v4, v5p) or 4 of a plane, of which a ring uses two. The
#   network has 50 Gb/s per chip (v4, v5p), and per pod of 256 6.4 (v5e) or 25.6 Tb/s (v6e). A clock
#   is the peak FLOP/s over the FLOPs per cycle of the matrix units: 8 of 2 x 128 x 128 in a v4 or
#   v5p, 4 in a v5e, and 4 of 2 x 256 x 256 in a v6e.
ACCELERATORS = {
    "a100": Accelerator(80e9, 312e12, 2.04e12, 300e9, 8, 25e9),
    "h100": Accelerator(80e9, 989e12, 3.35e12, 450e9, 8, 50e9),
    "h200": Accelerator(141e9, 989e12, 4.8e12, 450e9, 8, 50e9),
    "b200": Accelerator(180e9, 2250e12, 7.67e12, 900e9, 8, 50e9),
    "v4": Accelerator(32e9, 275e12, 1.2e12, 300e9, 4096, 6.25e9, 1 / 3, 1.05e9),
    "v5e": Accelerator(16e9, 197e12, 0.82e12, 200e9, 256, 3.125e9, 1 / 2, 1.5e9),
    "v5p": Accelerator(95e9, 459e12, 2.765e12, 600e9, 8960, 6.25e9, 1 / 3, 1.75e9),
    "v6e": Accelerator(32e9, 918e12, 1.64e12, 400e9, 256, 12.5e9, 1 / 2, 1.75e9),
}
# `device_kind` of JAX -> name; other boards have other peaks.
_KINDS = {
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
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
