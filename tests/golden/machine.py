"""The machine that recorded bits were made on."""

import os
from importlib import metadata
from pathlib import Path


def machine() -> dict[str, str | int | None]:
    """What decides the bits: the compiler, the CPU it compiles for, the number of threads.

    LLVM schedules sums for the model of a CPU, so equal instructions alone do not give equal bits.
    """
    flags = (_cpu("flags") or _cpu("Features")).split()  # x86, ARM
    wide = [name for name in ("avx2", "avx512f", "amx_tile", "sve") if name in flags]
    versions = {name: metadata.version(name) for name in ("jaxlib", "flax", "optax")}
    return {
        "cpu": " ".join(_cpu(field) for field in ("vendor_id", "cpu family", "model")),
        "instructions": " ".join(wide),
        "cores": len(os.sched_getaffinity(0)),
        **versions,
    }


def _cpu(field: str) -> str:
    """Returns a field of the first CPU; empty where the system does not show it."""
    for line in _cpuinfo().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
