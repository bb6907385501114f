"""Tensors in files of safetensors: read one at a time, and written in shards."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from lm_jax.errors import UserError
from lm_jax.file_names import is_file_name
from lm_jax.json_values import read_object
from lm_jax.telemetry.json_files import write_json

_INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
LARGEST_SHARD = 5_000_000_000  # bytes


class Tensor(NamedTuple):
    """A tensor in a file: its shape, its dtype, and a function that reads it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    where: str  # for messages
    read: Callable[[], np.ndarray]
    stored: str = "F32"  # only what `DTYPES` holds can be a weight


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Returns the tensors of a folder by name; none is read before it is asked for.

    Raises:
      UserError: there are no files of safetensors, or one is damaged.
    """
    found: dict[str, Tensor] = {}
    for path in _files(directory):
        for name, tensor in _open(path).items():
            if name in found:
                raise UserError(
                    f"{directory}: tensor {name} stands in {found[name].where} and in {path.name}; "
                    "remove the files of another copy"
                )
            found[name] = tensor
    return found


def _files(directory: Path) -> list[Path]:
    if (directory / _INDEX).exists():
        names = read_object(directory / _INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise UserError(f"{directory / _INDEX} holds no weight_map; restore it")
        for name in names.values():  # the folder may be a stranger's
            if not isinstance(name, str) or not is_file_name(name):
                raise UserError(
                    f"{directory / _INDEX} names {name!r}; expected the name of a file beside it"
                )
        files = [directory / name for name in sorted(set(names.values()))]
        if missing := [path.name for path in files if not path.exists()]:
            raise UserError(f"{directory} lacks {', '.join(missing)}, which {_INDEX} names")
        return files
    single = directory / "model.safetensors"
    files = [single] if single.exists() else sorted(directory.glob("*.safetensors"))
    if files:
        return files
    pickled = [path.name for pattern in _PICKLED for path in sorted(directory.glob(pattern))]
    if pickled:
        raise UserError(
            f"{directory} holds pickled weights ({pickled[0]}), which run code when they are read; "
            "give weights in the format of safetensors"
        )
    raise UserError(f"{directory} holds no weights; expected model.safetensors")


def _open(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, "numpy")
    except SafetensorError as error:
        raise UserError(
            f"{path} is damaged ({error}): the file is cut off or no file of safetensors; copy it "
            "again"
        ) from None

    def tensor(name: str) -> Tensor:
        described = file.get_slice(name)
        stored, shape = described.get_dtype(), tuple(described.get_shape())
        dtype = DTYPES.get(stored, np.dtype(np.float32))
        return Tensor(shape, dtype, path.name, lambda: file.get_tensor(name), stored)

    return {name: tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping


class Planned(NamedTuple):
    """A tensor that is to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """The size of the tensor."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def write_tensors(
    directory: Path,
    planned: Sequence[Planned],
    arrays: Iterable[np.ndarray],
    largest_shard: int = LARGEST_SHARD,
) -> None:
    """Writes model.safetensors or, where it would be too large, shards and their index.

    Args:
      arrays: of the planned tensors, in their order; each is asked for when its turn comes.
      largest_shard: bytes of a file.

    Raises:
      OSError: a file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    shards = _shards(planned, largest_shard)
    values = iter(arrays)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {each.name: np.ascontiguousarray(next(values)) for each in shard}
        try:
            save_file(tensors, directory / name, metadata={"format": "pt"})
        except SafetensorError as error:  # also of a full disk
            raise _of_system(error, directory / name) from error
        (directory / name).chmod(0o644)  # the library lets only the owner read it
        index |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        total = sum(each.bytes for each in planned)
        write_json(directory / _INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def _of_system(error: Exception, path: Path) -> Exception:
    """Returns the error of the system that the library has put into words; else the same error."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1])), str(path)) if found else error


def _shards(planned: Sequence[Planned], largest: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = [[]]
    filled = 0
    for each in planned:
        if shards[-1] and filled + each.bytes > largest:
            shards.append([])
            filled = 0
        shards[-1].append(each)
        filled += each.bytes
    return shards
