"""The machine that recorded bits were made on."""

import os
from importlib import metadata
from pathlib import Path


def machine() -> dict[str, str | int | None]:
    """What decides the bits: the compiler, the instructions it may use, the number of threads."""
    wide = [name for name in ("avx2", "avx512f", "amx_tile", "sve") if name in _cpu_flags()]
    versions = {name: metadata.version(name) for name in ("jaxlib", "flax", "optax")}
    return {"instructions": " ".join(wide), "cores": len(os.sched_getaffinity(0)), **versions}


def _cpu_flags() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().split() if path.exists() else []
