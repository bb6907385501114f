"""Derives command-line flags from the fields of dataclasses.

A flag has the name, the type and the default of its field. Its help text, its bounds and its
choices are those of the field's `lm_jax.fields.Description`.
"""

import ast
import contextlib
import copy
import dataclasses
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from absl import flags

from lm_jax import trusted_code
from lm_jax.fields import Description, description_of

T = TypeVar("T")

flags.disclaim_key_flags()  # --help of a program lists the flags that it defines through this file


class _LiteralParser(flags.ArgumentParser[Any]):
    """Parses a Python literal such as (1, 2); any other text stands for itself."""

    def parse(self, argument: Any) -> Any:
        try:
            return ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            return argument


class _IntegerParser(flags.IntegerParser):
    """Parses an integer, also one that is written as a number: 1e4, 2.0."""

    def convert(self, argument: Any) -> int:
        try:
            return int(argument)
        except ValueError:
            with contextlib.suppress(ValueError):
                if (number := float(argument)).is_integer():
                    return int(number)
            raise


def define(config: T, names: Sequence[str] | None = None, prefix: str = "") -> Callable[..., T]:
    """Defines a flag for each field of a dataclass, whose values are the defaults.

    Fields that are dataclasses themselves have flags for their fields, such as `model.d_model`.

    Args:
      names: fields that get a flag; all, if None.
      prefix: what the names of the flags begin with.

    Returns:
      A function that returns a copy of `config`, or of the dataclass that it is given, with the
      values of the flags that were given.
    """
    paths = []
    for path, field_type, default, description in _leaves(config, ""):
        if names is None or path in names:
            _define_flag(prefix + path, field_type, default, description)
            paths.append(path)

    def parsed(base: T = config) -> T:
        result = copy.deepcopy(base)
        for path in paths:
            flag = flags.FLAGS[prefix + path]
            if flag.present:
                owner: Any = result
                *parents, name = path.split(".")
                for parent in parents:
                    owner = getattr(owner, parent)
                setattr(owner, name, flag.value)
                if isinstance(flag.value, str):
                    trusted_code.allow([flag.value])  # the user typed it
        return result

    return parsed


def _leaves(config: Any, prefix: str) -> Iterator[tuple[str, Any, Any, Description]]:
    """Yields path, type, value and description of each field that holds no dataclass."""
    types = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, types[field.name], value, description_of(field)


def _define_flag(name: str, field_type: Any, default: Any, described: Description) -> None:
    bounds: dict[str, Any] = {}
    if not described.besides:  # a value outside of the bounds, which flags do not know
        bounds = {"lower_bound": described.minimum, "upper_bound": described.maximum}
    if described.choices:
        flags.DEFINE_enum(name, default, list(described.choices), described.help)
    elif field_type is bool:
        flags.DEFINE_boolean(name, default, described.help)
    elif field_type is int:
        integer = _IntegerParser(**bounds)
        serializer: flags.ArgumentSerializer[Any] = flags.ArgumentSerializer()
        flags.DEFINE(integer, name, default, described.help, serializer=serializer)
    elif field_type is float:
        flags.DEFINE_float(name, default, described.help, **bounds)
    elif field_type is str:
        flags.DEFINE_string(name, default, described.help)
    else:
        serializer = flags.ArgumentSerializer()
        flags.DEFINE(_LiteralParser(), name, default, described.help, serializer=serializer)
