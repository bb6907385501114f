"""Directories that Hugging Face `datasets` wrote with `save_to_disk`.

A `Dataset` is `state.json`, which lists its files of data, `dataset_info.json` and Arrow files. A
`DatasetDict` is `dataset_dict.json`, which lists its splits, and a `Dataset` in a folder for each.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from lm_jax.errors import UserError
from lm_jax.json_values import fits, parse

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def without_metadata(paths: Sequence[str], read: Callable[[str], bytes]) -> list[str]:
    """Returns the paths in their order, of saved data sets those that hold their data.

    Args:
      read: returns what a path holds.

    Raises:
      UserError: a data set has several splits, or lacks a file that it lists.
    """
    known, left_out = set(paths), set[str]()
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name == _STATE and f"{folder}/{_INFO}" in known:
            data = _data_files(path, read(path))
            missing = sorted(file for file in data if f"{folder}/{file}" not in known)
            if missing:
                raise UserError(
                    f"{path} lists {missing[0]}, which is not there; copy the data set again"
                )
            # Other Arrow files, such as cache-*.arrow, are copies that `datasets` keeps for itself.
            arrow = {other for other in known if other.endswith(".arrow")}
            others = {other for other in arrow if other.rpartition("/")[0] == folder}
            left_out |= {path, f"{folder}/{_INFO}"} | (others - {f"{folder}/{f}" for f in data})
        if name == _SPLITS and any(f"{folder}/{s}/{_STATE}" in known for s in _splits(path, read)):
            left_out.add(path)
            splits = _splits(path, read)
            if len(splits) > 1:
                raise UserError(
                    f"{folder} is a saved data set of the splits {', '.join(splits)}; name one, "
                    f"such as {folder}/{splits[0]}"
                )
    return [path for path in paths if path not in left_out]


def _splits(path: str, read: Callable[[str], bytes]) -> list[str]:
    found = _json(path, read(path)).get("splits", [])
    return found if fits(found, list[str]) else []


def _data_files(path: str, content: bytes) -> set[str]:
    found: Any = _json(path, content).get("_data_files")
    if not fits(found, list[_DataFile]):
        raise UserError(f"{path} lists no files of data; expected _data_files")
    return {file["filename"] for file in found}


class _DataFile(TypedDict):
    filename: str


def _json(path: str, content: bytes) -> dict[str, Any]:
    try:
        found = parse(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object; the saved data set is damaged: copy it again")
    return found
