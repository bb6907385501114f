"""Collectives of a train step: the bytes that devices send, and lower bounds by arithmetic."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lm_jax.costs.accelerators import Accelerator
from lm_jax.costs.hlo import Collective
from lm_jax.models.family import PlannedCollective
from lm_jax.parallel.sharding import DATA_AXES


class Traffic(NamedTuple):
    """The collectives of one kind on one device in one step."""

    times: int
    bytes: int  # size of the arrays
    sent: float  # bytes that a device sends in a ring


def ring_bytes(kind: str, size: float, group: int) -> float:
    """Returns the bytes that each of `group` devices sends in a ring: a lower bound.

    An all-reduce is a reduce-scatter and an all-gather, each of which sends all but one of the
    array's `group` parts (Patarasuk and Yuan 2009).
    """
    if kind in ("collective-permute", "collective-broadcast"):
        return float(size)
    return (2 if kind == "all-reduce" else 1) * size * (group - 1) / group


def by_kind(collectives: Mapping[Collective, int]) -> dict[str, Traffic]:
    """Returns the traffic by kind of collective, largest first."""
    return _sum((c.kind, c.bytes, c.group, times) for c, times in collectives.items())


def planned_by_kind(planned: Iterable[PlannedCollective], mesh: Mesh) -> dict[str, Traffic]:
    """Returns the traffic by kind of planned collectives on a mesh, largest first."""
    return _sum((p.kind, p.bytes, devices_of(p.axes, mesh), p.times) for p in planned)


def _sum(rows: Iterable[tuple[str, int, int, int]]) -> dict[str, Traffic]:
    found: dict[str, Traffic] = {}
    for kind, size, group, times in rows:
        before = found.get(kind, Traffic(0, 0, 0.0))
        sent = before.sent + times * ring_bytes(kind, size, group)
        found[kind] = Traffic(before.times + times, before.bytes + times * size, sent)
    return dict(sorted(found.items(), key=lambda item: -item[1].sent))


def devices_of(axes: Iterable[str], mesh: Mesh) -> int:
    """Returns the number of devices along these axes of the mesh."""
    return math.prod(mesh.shape[axis] for axis in axes)


def planned_collectives(
    params: Any, dtype: Any, mesh: Mesh, parts: int = 1, splits_time: bool = False
) -> list[PlannedCollective]:
    """Returns the collectives of parameters and gradients in one step, from their shardings.

    A parameter that is split over `fsdp` is gathered twice, for the forward and the backward pass,
    and its gradient is reduce-scattered (ZeRO-3, Rajbhandari et al. 2020, section 7.2). The
    gradients are then summed over the axes that split the tokens but not the parameter.

    Args:
      params: arrays, or `ShapeDtypeStruct`s with shardings.
      dtype: the dtype of the matrix products, in which everything is sent.
      parts: number of parts over which the gradient is accumulated; each does all of this.
      splits_time: whether the model splits rows of tokens over `sequence`.
    """
    splits = (*DATA_AXES, "sequence") if splits_time else DATA_AXES
    sizes: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for leaf in jax.tree.leaves(params):
        names = {name for axes in leaf.sharding.spec for name in _names(axes)}
        size = leaf.size * np.dtype(dtype).itemsize // devices_of(names - {"fsdp"}, mesh)
        if "fsdp" in names and mesh.shape["fsdp"] > 1:
            sizes["all-gather", ("fsdp",)] += 2 * size
            sizes["reduce-scatter", ("fsdp",)] += size
            size //= mesh.shape["fsdp"]
        whole = tuple(a for a in splits if a not in names and mesh.shape[a] > 1)
        if whole:
            sizes["all-reduce", whole] += size
    return [PlannedCollective(kind, axes, size, parts) for (kind, axes), size in sizes.items()]


def _names(axes: Any) -> tuple[str, ...]:
    return axes if isinstance(axes, tuple) else (axes,) if axes else ()


def seconds(planned: Iterable[PlannedCollective], mesh: Mesh, device: Accelerator) -> float:
    """Returns a lower bound of the seconds of the collectives in sequence at full bandwidth.

    Devices are numbered along the mesh's last axis first.
    """
    numbers = np.arange(mesh.size).reshape(tuple(mesh.shape.values()))
    total = 0.0
    for kind, axes, size, times in planned:
        first = tuple(slice(None) if axis in axes else 0 for axis in mesh.shape)
        group = numbers[first].reshape(-1)
        sent = times * ring_bytes(kind, size, len(group))
        total += sent / group_bandwidth(group.tolist(), device)
    return total


def group_bandwidth(group: Iterable[int], device: Accelerator) -> float:
    """Returns the bytes per second that each device of a group can send to the next of a ring.

    Within a domain that is what its links carry. Beyond it, a ring for each device of a domain
    leaves through that device's port: the group has as many ports as it has devices in a domain.
    """
    in_domain = Counter(number // device.domain for number in group)
    if len(in_domain) <= 1:
        return device.link_bandwidth
    return min(device.link_bandwidth, max(in_domain.values()) * device.network_bandwidth)
