"""A table of weights applied to one model: which tensor is which part of which array.

Axes: l layers.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.interop.tables import EXPERT, LAYER, Architecture, Row, Transform
from lm_jax.interop.tensor_files import DTYPES, Tensor
from lm_jax.models import build_model
from lm_jax.models.parameters import declarations
from lm_jax.objectives import OBJECTIVES

Shape = tuple[int, ...]
_LISTED = 8


class Entry(NamedTuple):
    """Tensors of others that are the same numbers as a layer of arrays of ours, or as all of it."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    layer: int | None  # index into the arrays; None: they have no layers
    shapes: tuple[Shape, ...]  # of theirs
    transform: Transform


def shapes_of(architecture: Architecture, config: Any) -> dict[str, Shape]:
    """Returns the shapes of our arrays by path."""
    objective = OBJECTIVES[architecture.objective]
    example = objective.example(Experiment(objective=objective.name, model=config), 1)
    found = declarations(build_model(config, np.float32).init, example)
    return {path: tuple(each.value.shape) for path, each in found.items()}


def entries(architecture: Architecture, config: Any, shapes: Mapping[str, Shape]) -> list[Entry]:
    """Returns what maps all arrays of a model, those of one row of the table after another.

    Args:
      shapes: of our arrays, by path.
    """
    found: list[Entry] = []
    mapped: set[str] = set()
    for row in architecture.rows:
        if mapped.isdisjoint(row.ours):  # of several rows of an array, the first that applies
            found += _entries_of_row(row, config, shapes)
            mapped = {path for entry in found for path in entry.ours}
    assert mapped == shapes.keys(), f"{architecture.model_type} maps no {shapes.keys() - mapped}"
    return found


def _entries_of_row(row: Row, config: Any, shapes: Mapping[str, Shape]) -> Iterator[Entry]:
    if not all(path in shapes for path in row.ours):
        return
    stacked = any(LAYER in name for name in row.theirs)
    whole = [shapes[path] for path in row.ours]
    parts = [shape[1:] if stacked else shape for shape in whole]
    blank = [np.broadcast_to(np.zeros((), bool), shape) for shape in parts]
    theirs = tuple(x.shape for x in row.transform.to_theirs(blank, config))
    for layer in range(whole[0][0]) if stacked else [None]:
        names = tuple(name.replace(LAYER, str(layer)) for name in row.theirs)
        if EXPERT in names[0]:
            names = tuple(names[0].replace(EXPERT, str(i)) for i in range(len(theirs)))
        yield Entry(names, row.ours, layer, theirs, row.transform)


def check(
    architecture: Architecture,
    wanted: Sequence[Entry],
    tensors: Mapping[str, Tensor],
    source: str,
) -> None:
    """Raises UserError if tensors are missing, of another shape, or not known, with their names.

    Args:
      source: where the tensors are, for the message.
    """
    expected = {
        name: shape
        for entry in wanted
        for name, shape in zip(entry.theirs, entry.shapes, strict=True)
    }
    missing = [name for name in expected if name not in tensors]
    left = [
        name
        for name in tensors
        if name not in expected
        and not any(fnmatch.fnmatch(name, pattern) for pattern in architecture.left_out)
    ]
    other = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    quantised = [
        f"{name} ({tensors[name].stored})"
        for name in expected
        if name in tensors and tensors[name].stored not in DTYPES
    ]
    found = {
        f"holds other types than {', '.join(DTYPES)}, such as quantised weights:": quantised,
        "lacks": missing,
        "holds what the model does not have:": left,
        "holds other shapes than config.json says:": other,
    }
    problems = [f"{what} {_listed(names)}" for what, names in found.items() if names]
    if problems:
        raise UserError(
            f"{source} and its config.json ({architecture.classes[0]}) do not fit: it "
            f"{'; it '.join(problems)}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
