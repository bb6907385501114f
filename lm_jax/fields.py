"""Fields of configurations that carry their help text and the values that they accept.

A program derives its flags from such fields, and `validate_fields` checks their values.
"""

import dataclasses
import numbers
from typing import Any, TypeVar

from lm_jax.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Description:
    """The meaning of a field and the values that it accepts."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None  # an exclusive minimum
    below: float | None = None  # an exclusive maximum
    choices: tuple[str, ...] = ()


def described(default: T, help: str, **accepted: Any) -> T:
    """Returns a dataclass field with a default and a `Description` of these arguments."""
    description = Description(help, **accepted)
    field: Any = dataclasses.field(default=default, metadata={"description": description})
    return field


def description_of(field: "dataclasses.Field[Any]") -> Description:
    """Returns the description of a field, an empty one if it was not `described`."""
    return field.metadata.get("description", Description(""))


def choices_of(config_type: type, name: str) -> tuple[str, ...]:
    """Returns the values that a field of a dataclass accepts."""
    (field,) = (field for field in dataclasses.fields(config_type) if field.name == name)
    return description_of(field).choices


_TYPES: dict[str, tuple[Any, str]] = {
    "int": (numbers.Integral, "an integer"),
    "float": (numbers.Real, "a number"),
    "str": (str, "a text"),
    "bool": (bool, "true or false"),
}


def validate_types(config: Any, path: str) -> None:
    """Checks the type of every field of a dataclass that is a number, a text, a bool or a part.

    Integers have an upper bound, too.

    Args:
      path: prefix of the names of the fields in messages, such as `samples.`.

    Raises:
      UserError: a value has another type.
    """
    for field in dataclasses.fields(config):
        value: Any = getattr(config, field.name)
        name = f"{path}{field.name}"
        declared = getattr(field.type, "__name__", field.type)  # the text of a quoted annotation
        if declared in _TYPES:
            accepted, expected = _TYPES[declared]
            is_number = accepted not in (str, bool)
            if not isinstance(value, accepted) or (is_number and isinstance(value, bool)):
                raise UserError(f"{name} is {value!r}; expected {expected}")
            if declared == "int" and abs(value) > (largest := _largest(field)):
                raise UserError(f"{name} is {value}; expected at most {largest}")
        elif dataclasses.is_dataclass(value):
            validate_types(value, f"{name}.")
        elif dataclasses.is_dataclass(field.type):
            raise UserError(f"{name} is {value!r}; expected a {declared}")


def _largest(field: "dataclasses.Field[Any]") -> int:
    """Returns the largest integer that a field can be; arrays of JAX hold int32."""
    maximum = description_of(field).maximum
    return 2**31 - 1 if maximum is None else int(maximum)


def validate_fields(config: Any, path: str) -> None:
    """Checks every described field of a dataclass.

    Args:
      path: prefix of the names of the fields in messages, such as `samples.`.

    Raises:
      UserError: a field does not accept its value.
    """
    for field in dataclasses.fields(config):
        expected = _expected(field.name, getattr(config, field.name), description_of(field))
        if expected:
            value = getattr(config, field.name)
            shown = repr(value) if isinstance(value, str) else value
            raise UserError(f"{path}{field.name} is {shown}; expected {expected}")


def _expected(name: str, value: Any, accepted: Description) -> str:
    """Returns what a field accepts if that excludes the value, else an empty text."""
    if accepted.choices and value not in accepted.choices:
        return f"one of {', '.join(accepted.choices)}"
    minimum, above, maximum, below = (
        accepted.minimum,
        accepted.above,
        accepted.maximum,
        accepted.below,
    )
    is_accepted = (
        (minimum is None or value >= minimum)
        and (above is None or value > above)
        and (maximum is None or value <= maximum)
        and (below is None or value < below)
    )
    if is_accepted:
        return ""
    if maximum is None and below is None:
        return f"at least {minimum}" if above is None else f"above {above}"
    low = "" if minimum is None else f"{minimum} <= "
    low = low if above is None else f"{above} < "
    return f"{low}{name} <= {maximum}" if below is None else f"{low}{name} < {below}"
