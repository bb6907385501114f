"""The number of devices along each mesh axis, from a configuration or chosen by `auto`.

A mesh is written as axes with sizes, such as `data:2,fsdp:4`. An axis that is not named has one
device; an axis of size -1 takes all remaining devices.
"""

import math
from collections.abc import Mapping

from lm_jax.errors import UserError
from lm_jax.plurals import counted
from lm_jax.whole_numbers import whole_number

AUTO = "auto"
# Consecutively numbered devices, which are close to each other, lie along the last axes.
AXES = ("data", "fsdp", "expert", "tensor", "sequence")


def parse(text: str) -> dict[str, int]:
    """Returns the size of each axis in the text.

    Raises:
      UserError: a part of the text is not an axis with its size, or two axes are -1.
    """
    given: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.partition(":")
        number = whole_number(size.removeprefix("-"))
        if axis not in AXES or axis in given or number is None:
            raise UserError(
                f"mesh {text}: {part!r} is no axis with its size; expected "
                f"for example data:2,fsdp:4, with {', '.join(AXES)} at most once each; or {AUTO}"
            )
        given[axis] = -number if size.startswith("-") else number
    if any(size == 0 or size < -1 for size in given.values()):
        raise UserError(f"mesh {text}: a size must be a number of devices, or -1 for the rest")
    if list(given.values()).count(-1) > 1:
        raise UserError(f"mesh {text}: at most one axis may be -1")
    return dict.fromkeys(AXES, 1) | given


def axis_sizes(text: str, num_devices: int) -> dict[str, int]:
    """Returns the size of each axis of a mesh of `num_devices`.

    Raises:
      UserError: as for `parse`, or the sizes do not multiply to the number of devices.
    """
    sizes = parse(text)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if num_devices % fixed or (fixed != num_devices and -1 not in sizes.values()):
        raise UserError(
            f"mesh {text} does not fit {counted(num_devices, 'device')}; "
            "the sizes must multiply to that number"
        )
    return {axis: num_devices // fixed if n == -1 else n for axis, n in sizes.items()}


def show(sizes: Mapping[str, int]) -> str:
    """Returns the sizes as text, without axes of one device."""
    return ",".join(f"{axis}:{n}" for axis, n in sizes.items() if n != 1) or "data:1"


def automatic(num_devices: int, state_bytes: float, device_bytes: float | None) -> str:
    """Returns the mesh that `auto` stands for.

    All devices are data parallel if the whole state fits half of a device's memory; the other half
    is for activations. A larger state is split (fsdp) over the smallest divisor of the number of
    devices whose parts fit, or over all devices if none does; the rest is data parallel. `auto`
    never uses the other axes.

    Args:
      state_bytes: bytes of parameters, gradients and optimizer state.
      device_bytes: the memory of a device; None: unknown, taken as large enough.
    """
    enough = state_bytes if device_bytes is None else device_bytes / 2
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    parts = next((n for n in divisors if state_bytes / n <= enough), num_devices)
    return show({"data": num_devices // parts, "fsdp": parts})
