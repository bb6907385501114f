"""An experiment as JSON, as a flat table of fields, and against another experiment."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from lm_jax.config.experiment import _VARIANTS, Experiment, variant
from lm_jax.errors import UserError
from lm_jax.parallel import mesh

# Fields that change neither the numbers of a run, but for rounding, nor what checkpoints hold.
# The data has a fingerprint of its own, which a run is held to.
_FREE_ON_RESUME = (
    "mesh",
    "model.context_parallel",
    "model.loss_chunks",
    "model.remat",
    "model.scan_layers",
    "evaluation",
    "checkpoint",
    "samples",
    "tensorboard",
    "training.log_every_steps",
    "data.path",
    "data.tasks",
    "data.validation_path",
    "data.target_path",
    "data.validation_target_path",
    "data.cache_directory",
    "data.tokenizer.path",
)


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as nested dicts of JSON values; `model` and `data` say what they are."""
    values = dataclasses.asdict(experiment)
    for part, (key, _) in _VARIANTS.items():
        values[part] = {key: variant(part, getattr(experiment, part)), **values[part]}
    return values


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """The inverse of `to_dict`; absent fields take their defaults.

    Raises:
      UserError: a field that no dataclass here has, or an unknown kind of model or data.
    """
    defaults = Experiment()
    parts: dict[str, Any] = {}
    for part, (key, types) in _VARIANTS.items():
        fields = dict(values.get(part, {}))
        name = fields.pop(key, variant(part, getattr(defaults, part)))
        if name not in types:
            raise UserError(f"{part}.{key} is {name!r}; expected one of {', '.join(types)}")
        parts[part] = _build(types[name], fields, f"{part}.")
    rest = {name: value for name, value in values.items() if name not in parts}
    if isinstance(sizes := rest.get("mesh"), Mapping):  # as runs wrote it once
        rest["mesh"] = mesh.show(sizes)
    experiment = _build(Experiment, rest, "")
    return dataclasses.replace(experiment, **parts)


def _build(cls: type, values: Mapping[str, Any], path: str) -> Any:
    types = get_type_hints(cls)
    for name in values:
        if name not in types:
            raise UserError(f"unknown field {path + name!r}; {cls.__name__} has {', '.join(types)}")
    return cls(
        **{
            name: _build(types[name], value, f"{path}{name}.")
            if dataclasses.is_dataclass(types[name])
            else value
            for name, value in values.items()
        }
    )


def dumps(experiment: Experiment) -> str:
    """The experiment as the text of `config.json`."""
    return json.dumps(to_dict(experiment), indent=2) + "\n"


def flat(experiment: Experiment) -> dict[str, Any]:
    """Every field of `to_dict` by its dotted path, such as `model.d_model`."""

    def flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in tree.items():
            inner = flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
            fields |= inner if inner is not None else {prefix + name: value}
        return fields

    return flatten(to_dict(experiment), "")


def flat_without(experiment: Experiment, paths: Iterable[str]) -> dict[str, Any]:
    """`flat` without some fields or parts, which are given as dotted paths."""
    left_out = tuple(paths)

    def stays(field: str) -> bool:
        return not any(field == path or field.startswith(f"{path}.") for path in left_out)

    return {path: value for path, value in flat(experiment).items() if stays(path)}


def decisive(experiment: Experiment) -> dict[str, Any]:
    """Those of `flat` that decide the numbers of a run, or what its checkpoints hold."""
    return flat_without(experiment, _FREE_ON_RESUME)


def differences(before: Experiment, after: Experiment) -> list[str]:
    """What keeps one run from continuing the other, as `path: before -> after` lines."""
    old, new = decisive(before), decisive(after)
    return [
        f"{path}: {old.get(path)!r} -> {new.get(path)!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
