"""The predicted time of a compiled step: each kernel's, and what the schedule leaves exposed."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lm_jax.costs.accelerators import Accelerator
from lm_jax.costs.collectives import group_bandwidth, ring_bytes
from lm_jax.costs.kernels import ATTENTION, COLLECTIVE, COPY, KINDS, Kernel, Loop, Schedule, Wait
from lm_jax.costs.kernels import launches as launches_of

# Shares of the datasheet's figures that good kernels reach on large arrays.
USABLE_PRODUCTS = 0.8  # an H100 multiplies large bfloat16 matrices at 790 of 989 TFLOP/s
# Shah et al. 2024 (FlashAttention-3), figure 5: cuDNN's forward pass on an H100 at 1,024 tokens has
# 26% with a causal mask at a width of 64, and up to 58% without one at 128.
USABLE_ATTENTION = 0.3
USABLE_MEMORY = 0.9
USABLE_LINKS = 0.8
# Seconds on a GPU of a kernel that does next to nothing, and of a collective of next to nothing.
SHORTEST, SHORTEST_EXCHANGE = 2e-6, 1e-5
# Speed of products by element type, where it is not that of bfloat16: TF32 for float32.
_SPEED = {"f32": 0.5, "f64": 0.07, "f8e4m3fn": 2.0, "f8e5m2": 2.0}


class KindTotal(NamedTuple):
    """All kernels of a kind in one step of a device; seconds as if nothing ran beside them."""

    launches: int
    flops: int
    bytes: int
    seconds: float


class Timeline(NamedTuple):
    """One step of a device."""

    seconds: float
    exposed: float  # seconds in which it waits for collectives and does nothing else


class Dear(NamedTuple):
    """Equal launches, as of one line in all layers, and what they take together."""

    seconds: float
    launches: int
    kernel: Kernel  # one of them


def kernel_seconds(kernel: Kernel, device: Accelerator) -> float:
    """Returns the seconds of a kernel alone.

    On a TPU the compiler's estimate where it gives one. Else the larger of its FLOPs at the usable
    peak and its bytes at the usable bandwidth; for a collective those that a ring sends.
    """
    if kernel.exchange:
        return _exchange_seconds(kernel, device)
    if kernel.cycles and device.clock:
        return kernel.cycles / device.clock
    usable = USABLE_ATTENTION if kernel.kind == ATTENTION else USABLE_PRODUCTS
    peak = usable * device.peak_flops * _SPEED.get(kernel.element, 1.0)
    work = max(kernel.flops / peak, kernel.bytes / (USABLE_MEMORY * device.memory_bandwidth))
    return work if device.clock else max(work, SHORTEST)


def _exchange_seconds(kernel: Kernel, device: Accelerator) -> float:
    assert kernel.exchange is not None
    bandwidth = USABLE_LINKS * group_bandwidth(kernel.group, device)
    seconds = ring_bytes(*kernel.exchange) / bandwidth
    return seconds / device.ring if device.clock else max(seconds, SHORTEST_EXCHANGE)


def predict(schedule: Schedule, device: Accelerator) -> Timeline:
    """Returns the time of one run of a schedule.

    Kernels run one after another. A collective that is started and awaited later runs beside what
    stands between, one collective at a time; so does a copy. What they share with kernels, such as
    bandwidth of the memory, is not counted.
    """
    now = exposed = 0.0
    free = {COLLECTIVE: 0.0, COPY: 0.0}  # when the collectives, and the copies, so far have ended
    ends: dict[str, tuple[float, str]] = {}
    for item in schedule:
        if isinstance(item, Loop):
            body = predict(item.body, device)
            now += item.trips * body.seconds
            exposed += item.trips * body.exposed
        elif isinstance(item, Wait):
            end, kind = ends.pop(item.starts, (now, ""))
            exposed += max(0.0, end - now) * (kind == COLLECTIVE)
            now = max(now, end)
        elif item.starts and item.kind in free:
            free[item.kind] = max(free[item.kind], now) + kernel_seconds(item, device)
            ends[item.starts] = free[item.kind], item.kind
        else:
            seconds = kernel_seconds(item, device)
            if item.kind == COLLECTIVE:
                seconds += max(0.0, free[COLLECTIVE] - now)
                exposed += seconds
            now += seconds
    return Timeline(now, exposed)


def by_kind(schedule: Schedule, device: Accelerator) -> dict[str, KindTotal]:
    """Returns the totals of each kind of kernel that the schedule has."""
    found: dict[str, KindTotal] = {}
    for kernel, times in launches_of(schedule):
        before = found.get(kernel.kind, KindTotal(0, 0, 0, 0.0))
        found[kernel.kind] = KindTotal(
            before.launches + times,
            before.flops + times * kernel.flops,
            before.bytes + times * kernel.bytes,
            before.seconds + times * kernel_seconds(kernel, device),
        )
    return {kind: found[kind] for kind in KINDS if kind in found}


def dearest(schedule: Schedule, device: Accelerator, count: int) -> list[Dear]:
    """Returns what takes the most time; launches of the same line and shape are taken together."""
    found: dict[tuple[str, ...], Dear] = {}
    for kernel, times in launches_of(schedule):
        key = (kernel.kind, kernel.operation, kernel.source, kernel.result)
        before = found.get(key, Dear(0.0, 0, kernel))
        seconds = before.seconds + times * kernel_seconds(kernel, device)
        found[key] = Dear(seconds, before.launches + times, before.kernel)
    return sorted(found.values(), key=lambda dear: -dear.seconds)[:count]


def float32_logits(schedule: Schedule, tokens: int, vocabulary: int) -> int:
    """Returns the bytes of the largest float32 array of [tokens, vocabulary] that is written, or 0.

    Args:
      tokens: of a device in one pass.
      vocabulary: the part of it on a device; compilers may pad it.
    """
    largest = 0
    for kernel, _ in launches_of(schedule):
        element, _, sizes = kernel.result.partition("[")
        shape = [int(size) for size in sizes.strip("]").split(",") if size]
        if element == "f32" and _is_logits(shape, tokens, vocabulary):
            largest = max(largest, 4 * math.prod(shape))
    return largest


def _is_logits(shape: Sequence[int], tokens: int, vocabulary: int) -> bool:
    return any(
        vocabulary <= size < vocabulary + 1024 and math.prod(shape) // size == tokens
        for size in shape
    )
