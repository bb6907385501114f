"""Shardings of arrays: one mesh, and one table from logical axes to mesh axes.

Data parallel, FSDP (ZeRO-3), tensor, context and expert parallel are rows of `RULES`, not code
paths. With a mesh of one device every rule is a no-op.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lm_jax.errors import UserError
from lm_jax.models.target import made_for
from lm_jax.parallel.mesh import axis_sizes, show

DATA_AXES = ("data", "fsdp", "expert")  # those that split the rows of a batch
# logical axis -> mesh axes over which it is split
RULES = (
    ("batch", DATA_AXES),
    ("time", "sequence"),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("vocab", "tensor"),
    ("experts", "expert"),
    ("router", None),
    ("positions", None),
    ("types", None),
    ("norm", None),
    ("layers", None),
)


def make_mesh(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of a text such as `data:2,fsdp:-1`.

    Args:
      devices: None: all devices.

    Raises:
      UserError: the text is not a mesh, or its sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(text, len(devices))
    shape, automatic = tuple(sizes.values()), (AxisType.Auto,) * len(sizes)
    try:
        return jax.make_mesh(shape, tuple(sizes), automatic, devices=devices)
    except NotImplementedError:  # a torus of TPUs has no sides of these sizes: cut some
        cut = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(cut, tuple(sizes), axis_types=automatic)


def device_memory() -> float | None:
    """Returns the bytes of a device's memory for arrays; None on CPU, which does not report it."""
    statistics = jax.local_devices()[0].memory_stats()
    # Whole gigabytes, so that all processes of a job get the same number.
    return statistics["bytes_limit"] // 10**9 * 1e9 if statistics else None


@contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
    """Makes models for this mesh inside the context: their constraints, and what devices run."""
    with made_for(mesh.devices.flat[0]), jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def data_parts(mesh: Mesh) -> int:
    """Returns the number of parts into which the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in DATA_AXES)


def share_of_rows(mesh: Mesh, process: int) -> tuple[int, int]:
    """Returns (i, n): the process holds the i-th of n equal shares of a batch's rows.

    Processes that differ only along axes that do not split a batch hold the same share.

    Raises:
      UserError: the shares of the processes overlap or have different sizes.
    """
    devices_by_part = mesh.devices.reshape(data_parts(mesh), -1)
    parts_of: dict[int, set[int]] = {}
    for part, devices in enumerate(devices_by_part):
        for device in devices:
            parts_of.setdefault(device.process_index, set()).add(part)
    shares = sorted(set(map(frozenset, parts_of.values())), key=min)
    if sum(map(len, shares)) != len(devices_by_part) or len(set(map(len, shares))) > 1:
        raise UserError(
            f"mesh {show(mesh.shape)} shares a batch unevenly among {len(parts_of)} processes; "
            "choose axes such that each process has whole rows, or all of a host have the same rows"
        )
    return shares.index(frozenset(parts_of[process])), len(shares)


def check_divides(mesh: Mesh, sequences: int, what: str) -> None:
    """Raises UserError unless a batch of `sequences` splits evenly over the data axes."""
    parts = data_parts(mesh)
    if sequences % parts:
        raise UserError(
            f"{what} of {sequences} sequences does not divide over mesh "
            f"{' x '.join(DATA_AXES)} = {parts}; "
            f"choose a multiple of {parts}"
        )


def unboxed(variables: Any) -> Any:
    """Returns the variables as plain arrays, without their logical axis names."""
    return nn.unbox(variables)


def variable_shardings(boxed: Any, mesh: Mesh) -> Any:
    """Returns the sharding of each variable from the logical axes that its box names.

    A dimension that its mesh axes do not divide, such as a vocabulary of 257, is not split.
    """
    wanted = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)

    def fit(sharding: NamedSharding, variable: Any) -> NamedSharding:
        def divides(axes: Any, size: int) -> bool:
            names = axes if isinstance(axes, tuple) else (axes,)
            return size % math.prod(mesh.shape[name] for name in names if name) == 0

        pairs = zip(sharding.spec, variable.shape, strict=False)
        return NamedSharding(mesh, PartitionSpec(*(a if divides(a, n) else None for a, n in pairs)))

    return jax.tree.map(fit, wanted, unboxed(boxed))


def state_shardings(abstract_state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Returns the shardings of a state; optimizer moments follow their parameters.

    A leaf of the state matches a parameter by the end of its path and its shape. All other leaves
    (step, key, counts) are replicated.
    """
    flat = jax.tree_util.tree_leaves_with_path(params)
    specs = jax.tree.leaves(shardings)
    by_path = {
        jax.tree_util.keystr(path): (leaf.shape, spec)
        for (path, leaf), spec in zip(flat, specs, strict=True)
    }
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(path, leaf):
        for start in range(len(path)):
            shape, spec = by_path.get(jax.tree_util.keystr(path[start:]), (None, None))
            if spec is not None and shape == leaf.shape:
                return spec
        return replicated

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def replicated(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays that all processes hold as copies on every device of the mesh."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: placed(x, whole), tree)


def placed(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Returns an array that all processes hold as a global array with this sharding."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    # device_put would make every process gather every array to check that they are equal.
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(placed(jax.random.key_data(x), sharding))
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def batch_sharding(mesh: Mesh, leading_axes: int = 0) -> NamedSharding:
    """Returns the sharding of a batch [..., B, T], which splits B over `DATA_AXES`."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading_axes, DATA_AXES))


def place_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Returns the global arrays of a batch from this process's rows."""
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
