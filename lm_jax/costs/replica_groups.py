"""The devices that exchange with each other, from XLA's notations of `replica_groups`."""

import math
import re

import numpy as np


def first_group(attributes: str, devices: int) -> tuple[int, ...]:
    """Returns the numbers of the devices in the first group of a collective; {}: all devices."""
    text = attributes.partition("replica_groups=")[2]
    if text.startswith("mesh["):
        return _of_mesh(text)
    if iota := re.match(r"\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return tuple(_iota(iota[3]).reshape(int(iota[1]), int(iota[2]))[0].tolist())
    if listed := re.match(r"\{\{([\d,]+)\}", text):
        return tuple(int(number) for number in listed[1].split(","))
    return tuple(range(devices))


def pairs(attributes: str) -> list[tuple[int, int]]:
    """Returns the (source, target) of each message of a collective-permute; [] for others."""
    listed = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
    found = re.findall(r"(\d+),(\d+)", listed[1]) if listed else []
    return [(int(source), int(target)) for source, target in found]


def _iota(text: str) -> np.ndarray:
    """Returns the array of `[4,2]T(1,0)`: 0 to 7 as [4, 2], its axes then transposed."""
    shape, _, axes = text.partition("T")
    sizes = [int(size) for size in shape.strip("[]").split(",")]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    order = [int(axis) for axis in axes.strip("()").split(",")] if axes else range(len(sizes))
    return numbers.transpose(tuple(order))


def _of_mesh(text: str) -> tuple[int, ...]:
    """Returns the first group of `mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'y':(1)2}`.

    A part of an axis is written `(sizes before it)size`.
    """
    mesh, _, named = text.partition("{")
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    order = re.search(r"device_ids=\(([^ ]+)\)", mesh)
    numbers = _iota(order[1]) if order else np.arange(math.prod(sizes.values()))
    numbers = numbers.reshape(tuple(sizes.values()))
    axes = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", named.partition("}")[0])
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in axes}
    for axis, (name, size) in enumerate(sizes.items()):
        before, kept = parts.get(name, (1, 1))
        after = size // (before * kept)
        numbers = numbers.take(np.arange(kept) * after, axis=axis)
    return tuple(numbers.reshape(-1).tolist())
