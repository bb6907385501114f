"""Accelerators by name: what one holds, computes and exchanges, as their makers state it."""

from typing import NamedTuple

from lm_jax.errors import UserError


class Accelerator(NamedTuple):
    """One device; bandwidths are bytes a second that it sends, while it receives as many."""

    memory_bytes: float
    peak_flops: float  # a second, dense matrix products in bfloat16
    memory_bandwidth: float
    link_bandwidth: float  # over all of its links to the other devices of its domain
    domain: int  # devices joined by these links
    network_bandwidth: float  # beyond the domain, a device's share


# H100, H200: NVIDIA's datasheets of the SXM5 boards. 989 TFLOP/s without sparsity; NVLink 900 GB/s
#   both ways together; eight boards and eight 400 Gb/s network ports make a DGX or HGX system.
# v5e, v5p: cloud.google.com/tpu/docs/v5e and /v5p. ICI 400 and 1,200 GB/s both ways together, over
#   the 4 and 6 links of a torus: what one axis of the mesh can use is a half or a third of it.
#   The network is 6.4 Tb/s a pod of 256 and 50 Gb/s a chip.
ACCELERATORS = {
    "h100": Accelerator(80e9, 989e12, 3.35e12, 450e9, 8, 50e9),
    "h200": Accelerator(141e9, 989e12, 4.8e12, 450e9, 8, 50e9),
    "v5e": Accelerator(16e9, 197e12, 819e9, 200e9, 256, 3.125e9),
    "v5p": Accelerator(95e9, 459e12, 2.765e12, 600e9, 8960, 6.25e9),
}
# What JAX calls them; boards of other shapes have other peaks.
_KINDS = {
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
}
# The rest is the runtime's, the libraries' workspaces and what allocation fragments.
USABLE = 0.9


def accelerator(name: str) -> Accelerator:
    """The accelerator of a name.

    Raises:
      UserError: none is known by it.
    """
    if name not in ACCELERATORS:
        raise UserError(f"unknown accelerator {name!r}; known are {', '.join(ACCELERATORS)}")
    return ACCELERATORS[name]


def name_of(device_kind: str) -> str | None:
    """The accelerator that a device of JAX is, by its `device_kind`; None: none of these."""
    return _KINDS.get(device_kind)
