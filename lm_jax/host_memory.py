"""The memory of this machine, asked for without JAX."""

import os


def host_memory() -> float | None:
    """Returns the bytes of this machine's memory; None where the system does not tell."""
    if not hasattr(os, "sysconf"):
        return None
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
