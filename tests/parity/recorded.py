"""Numbers that other libraries compute, recorded so that the tests need none of those libraries.

A test asks `reference` for what PyTorch, Hugging Face transformers or scikit-learn computes from
given inputs. LM_JAX_PARITY says where the numbers come from:

  (unset)  read from tests/parity/recorded/FILE.npz: `make test`
  compare  computed by the library, compared with the record and returned: `make parity`
  record   computed by the library and written to the record: `make parity-record`

Each case keeps a digest of its inputs, so that a record of other inputs is never compared with.
"""

import functools
import json
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

HERE = Path(__file__).parent / "recorded"
MODE = os.environ.get("LM_JAX_PARITY", "")
VERSIONS = HERE / "versions.json"
LARGEST_FILE = 250_000  # bytes


def reference(
    file: str,
    case: str,
    compute: Callable[..., Mapping[str, Any]],
    inputs: Any = (),
    *,
    libraries: tuple[str, ...] = ("torch",),
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> dict[str, np.ndarray]:
    """Returns what `compute(inputs)` returns, from the record or from the library itself.

    Args:
      file: name of the record, which holds several cases.
      case: name of the case within it.
      compute: function of `inputs`, as NumPy arrays, to named arrays. It imports the library.
      inputs: pytree of arrays.
      libraries: packages whose versions are recorded; without them a live test is skipped.
      rtol, atol: how far numbers of another version of the library, or of another CPU, may be
        from the record; `atol` is a share of the largest number where that is above 1, since
        sums are rounded at the size of what they sum.
    """
    inputs = jax.tree.map(np.asarray, inputs)
    digest = _digest(inputs)
    if MODE == "":
        return _read(file, case, digest)
    for library in libraries:
        pytest.importorskip(library)
    found = {name: np.asarray(value) for name, value in compute(inputs).items()}
    if MODE == "record":
        _write(file, case, {"digest": digest} | found, libraries)
    elif MODE == "compare":
        recorded = _read(file, case, digest)
        assert found.keys() == recorded.keys(), case
        for name, value in recorded.items():
            message = f"{file}, {case}, {name}: another version of the library, or a wrong record"
            np.testing.assert_allclose(
                found[name], value, rtol, rounding(value, atol), err_msg=message
            )
    else:
        raise ValueError(f"LM_JAX_PARITY is {MODE!r}; expected compare, record or nothing")
    return found


def rounding(value: np.ndarray, atol: float) -> float:
    """Returns the difference that rounding explains: `atol` of the largest finite number or 1."""
    size = np.abs(value)
    return atol * max(1.0, float(np.max(size, initial=0, where=np.isfinite(size))))


def _digest(inputs: Any) -> np.ndarray:
    """Returns two sums [2] over all inputs, equal up to rounding on every machine."""
    leaves = [np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(inputs)]
    flat = np.concatenate([np.zeros(1), *leaves])
    return np.array([np.abs(flat).sum(), np.abs(flat) @ np.cos(np.arange(flat.size))])


@functools.cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    path = HERE / f"{file}.npz"
    with np.load(path) as archive:
        return dict(archive)


def _read(file: str, case: str, digest: np.ndarray) -> dict[str, np.ndarray]:
    found = {
        name.removeprefix(f"{case}/"): value
        for name, value in _arrays(file).items()
        if name.startswith(f"{case}/")
    }
    again = "write it with `make parity-record`, which needs the other libraries"
    assert found, f"{file}.npz has no case {case!r}: {again}"
    message = f"the inputs of {file}, {case} are not those of the record: {again}"
    np.testing.assert_allclose(digest, found.pop("digest"), rtol=1e-5, atol=1e-4, err_msg=message)
    return found


def _write(file: str, case: str, found: dict[str, Any], libraries: tuple[str, ...]) -> None:
    path = HERE / f"{file}.npz"
    others = {}
    if path.exists():
        with np.load(path) as archive:
            others = {n: v for n, v in archive.items() if not n.startswith(f"{case}/")}
    arrays = others | {f"{case}/{name}": value for name, value in found.items()}
    np.savez_compressed(path, **dict(sorted(arrays.items())))
    assert path.stat().st_size <= LARGEST_FILE, f"{path} is larger than {LARGEST_FILE} bytes"
    versions = json.loads(VERSIONS.read_text()) if VERSIONS.exists() else {}
    versions[file] = {name: metadata.version(_PACKAGES.get(name, name)) for name in libraries}
    VERSIONS.write_text(json.dumps(versions, indent=1, sort_keys=True) + "\n")


_PACKAGES = {"sklearn": "scikit-learn"}


def draws(name: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Returns normal numbers that depend on the name and the shape alone, as float32."""
    seed = int.from_bytes(name.encode(), "little") % (2**32 - 5)
    return (scale * np.random.RandomState(seed).standard_normal(shape)).astype(np.float32)
