"""What a program is made for: the devices of this process, or others that it is compiled for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_TARGET: ContextVar[jax.Device | None] = ContextVar("target", default=None)


def target() -> str:
    """Returns what programs run on: cpu, cuda, tpu, or JAX's platform of any other device.

    Inside `made_for` it is that device, elsewhere the first one of this process.
    """
    return _kind(target_device())


def target_device() -> jax.Device:
    """Returns the device that `target` is about."""
    return _TARGET.get() or jax.local_devices()[0]


@contextmanager
def made_for(device: jax.Device) -> Iterator[None]:
    """Builds and traces models for this device, which need not exist, inside the context."""
    token = _TARGET.set(device)
    try:
        yield
    finally:
        _TARGET.reset(token)


def _kind(device: jax.Device) -> str:
    # A GPU that is only described has no driver whose version names CUDA.
    described = f"{device.client.platform_version} {device.device_kind}"
    is_nvidia = "cuda" in described or "NVIDIA" in described
    return "cuda" if device.platform == "gpu" and is_nvidia else device.platform
