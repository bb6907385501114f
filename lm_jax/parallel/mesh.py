"""How many devices lie along each axis of the mesh: what a configuration says, what `auto` chooses.

A mesh is written as its axes with their sizes, `data:2,fsdp:4`; an axis that is not named has one
device, and one of size -1 all that remain.
"""

import math
from collections.abc import Mapping

from lm_jax.errors import UserError

AUTO = "auto"
# Devices that are numbered consecutively, and so are near to each other, lie along the last axes.
AXES = ("data", "fsdp", "tensor", "sequence")


def parse(text: str) -> dict[str, int]:
    """The size of each axis as the text gives it.

    Raises:
      UserError: a part of the text is no axis with its size, or more than one axis is -1.
    """
    given: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.partition(":")
        if axis not in AXES or axis in given or not size.removeprefix("-").isdigit():
            raise UserError(
                f"mesh {text}: {part!r} is no axis with its size; "
                f"expected such as data:2,fsdp:4, of {', '.join(AXES)}, each once; or {AUTO}"
            )
        given[axis] = int(size)
    if any(size == 0 or size < -1 for size in given.values()):
        raise UserError(f"mesh {text}: a size is a number of devices, or -1 for the rest")
    if list(given.values()).count(-1) > 1:
        raise UserError(f"mesh {text}: at most one axis may be -1")
    return dict.fromkeys(AXES, 1) | given


def axis_sizes(text: str, num_devices: int) -> dict[str, int]:
    """The size of each axis of a mesh of so many devices.

    Raises:
      UserError: as `parse`, or the sizes do not multiply to the number of devices.
    """
    sizes = parse(text)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if num_devices % fixed or (fixed != num_devices and -1 not in sizes.values()):
        raise UserError(
            f"mesh {text} does not fit {num_devices} devices; "
            "the sizes must multiply to that number"
        )
    return {axis: num_devices // fixed if n == -1 else n for axis, n in sizes.items()}


def show(sizes: Mapping[str, int]) -> str:
    """The sizes as text, those of one device left out where others are not."""
    return ",".join(f"{axis}:{n}" for axis, n in sizes.items() if n != 1) or "data:1"


def automatic(num_devices: int, state_bytes: float, device_bytes: float | None) -> str:
    """The mesh that `auto` stands for.

    All devices are data parallel while one of them holds the whole state in half of its memory; the
    other half is for activations. A larger state is split (fsdp) over the fewest devices of which
    each holds its part so, if need be over all. Their number divides that of all; the rest is data
    parallel. What is split otherwise is left to who knows the network: tensor, sequence.

    Args:
      state_bytes: of parameters, gradients and optimizer state.
      device_bytes: the memory of a device; None, where it is not known, stands for enough.
    """
    enough = state_bytes if device_bytes is None else device_bytes / 2
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    parts = next((n for n in divisors if state_bytes / n <= enough), num_devices)
    return show({"data": num_devices // parts, "fsdp": parts})
