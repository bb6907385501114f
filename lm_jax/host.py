"""This machine, asked without JAX."""

import functools
import os
from pathlib import Path


def host_memory() -> float | None:
    """Returns the bytes of this machine's memory; None where the system does not tell."""
    if not hasattr(os, "sysconf"):
        return None
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@functools.cache
def has_avx512() -> bool:
    """Returns whether this CPU has vectors of 512 bits (x86); False where Linux does not say so."""
    path = Path("/proc/cpuinfo")
    return path.exists() and " avx512f " in path.read_text(errors="replace")
