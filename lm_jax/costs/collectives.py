"""What devices exchange: bytes on the wire, and what a train step has to exchange by arithmetic."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lm_jax.costs.accelerators import Accelerator
from lm_jax.costs.hlo import Collective
from lm_jax.models.transformer.config import BlocksConfig, EncoderDecoderConfig


class Traffic(NamedTuple):
    """The collectives of a kind, of one device in one step."""

    times: int
    bytes: int  # of the arrays
    sent: float  # by a device in a ring


class PlannedCollective(NamedTuple):
    """A collective that a step cannot do without."""

    kind: str
    axes: tuple[str, ...]  # of the mesh
    bytes: int  # of the whole array
    times: int = 1


def ring_bytes(kind: str, size: float, group: int) -> float:
    """What each of `group` devices sends in a ring, which is the least that it can.

    A reduction that all receive is a reduce-scatter and an all-gather, each of which sends all but
    one of the array's `group` parts (Patarasuk and Yuan 2009).
    """
    if kind in ("collective-permute", "collective-broadcast"):
        return float(size)
    return (2 if kind == "all-reduce" else 1) * size * (group - 1) / group


def by_kind(collectives: Mapping[Collective, int]) -> dict[str, Traffic]:
    """The traffic of each kind of collective, the largest first."""
    return _sum((c.kind, c.bytes, c.group, times) for c, times in collectives.items())


def planned_by_kind(planned: Iterable[PlannedCollective], mesh: Mesh) -> dict[str, Traffic]:
    """The same of collectives over axes of a mesh."""
    return _sum((p.kind, p.bytes, devices_of(p.axes, mesh), p.times) for p in planned)


def _sum(rows: Iterable[tuple[str, int, int, int]]) -> dict[str, Traffic]:
    found: dict[str, Traffic] = {}
    for kind, size, group, times in rows:
        before = found.get(kind, Traffic(0, 0, 0.0))
        sent = before.sent + times * ring_bytes(kind, size, group)
        found[kind] = Traffic(before.times + times, before.bytes + times * size, sent)
    return dict(sorted(found.items(), key=lambda item: -item[1].sent))


def devices_of(axes: Iterable[str], mesh: Mesh) -> int:
    """How many devices lie along these axes of the mesh."""
    return math.prod(mesh.shape[axis] for axis in axes)


def planned_collectives(
    params: Any, dtype: Any, mesh: Mesh, parts: int = 1, splits_time: bool = False
) -> list[PlannedCollective]:
    """What parameters and gradients cost in one step, from their shardings alone.

    A parameter that is split over `fsdp` is gathered twice, for the forward and for the backward
    pass, and its gradient is reduced and scattered (ZeRO-3, Rajbhandari et al. 2020, section 7.2).
    The gradients are then summed over the axes that split the tokens and not the parameter. All of
    it is in `dtype`, that of the products.

    Args:
      params: arrays, or `ShapeDtypeStruct`s with shardings.
      parts: of the batch over which the gradient is accumulated; each does all of this.
      splits_time: whether the model splits rows of tokens over `sequence`.
    """
    splits = ("data", "fsdp", "sequence") if splits_time else ("data", "fsdp")
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


def planned_activations(
    config: BlocksConfig, sequences: int, dtype: Any, mesh: Mesh
) -> list[PlannedCollective]:
    """What splitting activations of a Transformer costs in a step, for `sequences` a device.

    Over `tensor` each attention and each feed-forward block sums its output once forward and the
    gradient of its input once backward (Shoeybi et al. 2019, section 3). Over `sequence` each
    attention gathers its keys and values, and reduces and scatters their gradients; or sends them
    round, and backward once more with their gradients. Recomputation comes on top.
    """
    if not isinstance(config, EncoderDecoderConfig):
        towers = [(config.context_length, config.num_layers, 2)]
        attentions = [(config.context_length, config.num_layers)]
    else:
        towers = [
            (config.source_length, config.encoder_layers, 2),
            (config.context_length, config.num_layers, 3),
        ]
        attentions = [
            (config.source_length, config.encoder_layers + config.num_layers),
            (config.context_length, config.num_layers),
        ]
    of_position = sequences * np.dtype(dtype).itemsize
    tensor, parts = mesh.shape["tensor"], mesh.shape["sequence"]
    planned = []
    if tensor > 1:
        width = of_position * config.d_model
        planned += [
            PlannedCollective(
                "all-reduce", ("tensor",), width * length // parts, 2 * blocks * layers
            )
            for length, layers, blocks in towers
        ]
    if parts > 1:
        width = of_position * 2 * config.kv_heads * config.head_width // tensor
        for length, layers in attentions:
            planned += _keys_and_values(config.context_parallel, width * length, layers, parts)
    return planned


def _keys_and_values(how: str, size: int, layers: int, parts: int) -> list[PlannedCollective]:
    if how == "ring":
        # Forward all but the own block arrive; backward again, and their gradients come home.
        times = layers * (2 * (parts - 1) + parts)
        return [PlannedCollective("collective-permute", ("sequence",), size // parts, times)]
    kinds = ("all-gather", "reduce-scatter")
    return [PlannedCollective(kind, ("sequence",), size, layers) for kind in kinds]


def seconds(planned: Iterable[PlannedCollective], mesh: Mesh, device: Accelerator) -> float:
    """How long the collectives take at the least, one after another, at full bandwidth.

    Devices are numbered along the mesh's last axis first, so an axis whose devices are all within
    one domain uses its links, and any other the network.
    """
    sizes = list(mesh.shape.items())
    total = 0.0
    for kind, axes, size, times in planned:
        first = min(index for index, (axis, _) in enumerate(sizes) if axis in axes)
        span = math.prod(length for _, length in sizes[first:])
        bandwidth = device.link_bandwidth if span <= device.domain else device.network_bandwidth
        total += times * ring_bytes(kind, size, devices_of(axes, mesh)) / bandwidth
    return total
