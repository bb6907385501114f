"""An experiment as JSON, as a flat table of fields, and against another experiment."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lm_jax import trusted_code
from lm_jax.choices import choose
from lm_jax.code_names import absolute
from lm_jax.config.experiment import Experiment
from lm_jax.data.config import KINDS, PLACES
from lm_jax.errors import UserError
from lm_jax.fields import description_of, expected_type
from lm_jax.json_values import shown
from lm_jax.models import family_name, family_named
from lm_jax.nested import flatten
from lm_jax.parallel import mesh

# Fields that change neither the numbers of a run, but for rounding, nor what checkpoints hold.
# The data has a fingerprint of its own, which a run is held to.
FREE_ON_RESUME = (
    "mesh",
    "model.context_parallel",
    "model.loss_chunks",
    "model.remat",
    "model.scan_layers",
    "evaluation",
    "checkpoint",
    "samples",
    "tensorboard",
    "logger",
    "training.log_every_steps",
    "training.stop_after_no_improvement",
    *(f"data.{name}" for name in PLACES),
    "data.invalid_utf8",
    "data.cache_directory",
    "data.tokenizer.path",
)


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Returns nested dicts of JSON values; `model` has its family's name, `data` its kind.

    Files of code from outside are named by their absolute paths.

    Raises:
      UserError: the model's configuration belongs to no family.
    """
    values = dataclasses.asdict(experiment)
    _make_absolute(experiment, values)
    values["model"] = {"family": family_name(experiment.model), **values["model"]}
    values["data"] = {"kind": experiment.data.kind, **values["data"]}
    values["data"]["source"] = absolute(values["data"]["source"])
    return values


def _make_absolute(config: Any, values: dict[str, Any]) -> None:
    """Changes the names of code among the values of a dataclass to absolute paths."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _make_absolute(value, values[field.name])
        elif description_of(field).choices_in and isinstance(value, str):
            values[field.name] = absolute(value)


def allow_code(experiment: Experiment) -> None:
    """Lets this process run the code that an experiment names, if a user built it.

    What a file that was read names stays as it is, unless its code has run: a model or a kind of
    data is an object of it.
    """
    with contextlib.suppress(UserError):  # the model is of no family
        trusted_code.allow([family_name(experiment.model)])
    trusted_code.allow([experiment.data.kind])
    trusted_code.allow_unless_read(_chosen(experiment))


def _chosen(config: Any) -> Iterator[str]:
    """Yields the values of all fields that take names of code."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _chosen(value)
        elif description_of(field).choices_in and isinstance(value, str):
            yield value


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """Returns the inverse of `to_dict`; absent fields take their defaults.

    Raises:
      UserError: a field that no dataclass here has, a value of another type than its field, or an
        unknown kind of model or data, or one whose code the user does not trust.
    """
    for name in ("model", "data"):
        if not isinstance(values.get(name, {}), Mapping):
            raise _no_object(name, values[name])
    rest = to_dict(Experiment()) | dict(values)
    model, data = dict(rest.pop("model")), dict(rest.pop("data"))
    family = family_named(model.pop("family", family_name(Experiment().model)))
    kind = choose(KINDS, data.pop("kind", Experiment().data.kind), "data.kind")
    if isinstance(sizes := rest["mesh"], Mapping):  # the form of old work directories
        rest["mesh"] = mesh.show(sizes)
    experiment = _build(Experiment(), rest, "")
    return dataclasses.replace(
        experiment,
        model=_build(family.config(), model, "model."),
        data=_build(kind(), data, "data."),
    )


def _build(defaults: Any, values: Mapping[str, Any], path: str) -> Any:
    """Returns a dataclass of the type of `defaults`, with these values in place of its own."""
    known = {field.name: field for field in dataclasses.fields(defaults)}
    fields = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(
                f"unknown field {shown(path + name)}; {type(defaults).__name__} has "
                f"{', '.join(known)}"
            )
        default = getattr(defaults, name)
        if not dataclasses.is_dataclass(default):
            if expected := expected_type(known[name], value):
                raise UserError(f"{path}{name} is {shown(value)}; expected {expected}")
            fields[name] = value
        elif isinstance(value, Mapping):
            fields[name] = _build(default, value, f"{path}{name}.")
        else:
            raise _no_object(path + name, value)
    return dataclasses.replace(defaults, **fields)


def _no_object(path: str, value: Any) -> UserError:
    return UserError(f"{path} is {shown(value)}; expected an object with its fields")


def with_changes(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Returns the experiment with other values of some fields.

    Args:
      changes: values by dotted path, such as `{"training.num_steps": 200}`, which the user gives.

    Raises:
      UserError: there is no field of that path.
    """
    values = to_dict(experiment)
    for path, value in changes.items():
        *parts, name = path.split(".")
        part: Any = values
        for each in parts:
            part = part.get(each) if isinstance(part, Mapping) else None
        if not isinstance(part, dict) or name not in part:
            raise UserError(
                f"there is no field {path!r} to change; expected a dotted path such as "
                "training.num_steps (docs/configuration.md)"
            )
        part[name] = value
    trusted_code.allow(value for value in changes.values() if isinstance(value, str))
    return from_dict(values)


def dumps(experiment: Experiment) -> str:
    """Returns the experiment as the text of `config.json`."""
    return json.dumps(to_dict(experiment), indent=2) + "\n"


def flat(experiment: Experiment) -> dict[str, Any]:
    """Returns every field of `to_dict` by its dotted path, such as `model.d_model`."""
    return flatten(to_dict(experiment))


def defaults_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the default of each field by path, for the family and kind of data of a config.json.

    Empty where the family or the kind is not here.
    """
    kinds = {"model": "family", "data": "kind"}
    parts = {name: config.get(name) or {} for name in kinds}
    chosen = {part: {n: parts[part][n]} for part, n in kinds.items() if n in parts[part]}
    try:
        return flatten(json.loads(dumps(from_dict(chosen))))
    except UserError:
        return {}


def flat_without(experiment: Experiment, paths: Iterable[str]) -> dict[str, Any]:
    """Returns `flat` without some fields or parts, which are given as dotted paths."""
    left_out = tuple(paths)

    def stays(field: str) -> bool:
        return not any(field == path or field.startswith(f"{path}.") for path in left_out)

    return {path: value for path, value in flat(experiment).items() if stays(path)}


def decisive(experiment: Experiment) -> dict[str, Any]:
    """Returns those of `flat` that decide the numbers of a run, or what its checkpoints hold."""
    return flat_without(experiment, FREE_ON_RESUME)


def differences(before: Experiment, after: Experiment) -> list[str]:
    """Returns what keeps a run from continuing another, as `path: before -> after` lines."""
    return _changes(decisive(before), decisive(after))


def changes(before: Experiment, after: Experiment) -> list[str]:
    """Returns all fields that differ, as `path: before -> after` lines."""
    return _changes(flat(before), flat(after))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{path}: {old.get(path)!r} -> {new.get(path)!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
