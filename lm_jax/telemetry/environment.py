"""The machine, package versions and commit of a run."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("lm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str | None]:
    """Returns the versions of the packages that decide the numbers of a run."""
    return {name: version(name) for name in _PACKAGES}


def environment() -> dict[str, Any]:
    """Returns what a reader needs to repeat a run: machine, versions, commit, command line."""
    import jax

    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": versions(),
    }


def maker(here: Mapping[str, Any]) -> str:
    """Returns the version and, where it is known, the commit of an `environment`, as a phrase."""
    commit = f" at {here['commit']}" if here["commit"] else ""
    return f"lm_jax {here['versions']['lm_jax']}{commit}"


def version(package: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit + ("-dirty" if changes else "") if commit else None


def _git(*arguments: str) -> str:
    """Returns what a git command prints in this folder; "" if it fails."""
    found = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5
    )
    return found.stdout.strip()
