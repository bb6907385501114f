"""Fields of configurations that carry their help text and the values that they accept.

A program derives its flags from such fields, and `validate_fields` checks their values.
"""

import dataclasses
import numbers
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from lm_jax.choices import import_object
from lm_jax.errors import UserError
from lm_jax.json_values import shown

T = TypeVar("T")

_LARGEST_INT = 2**31 - 1  # arrays of JAX hold int32
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # arrays hold it as infinity from here on


@dataclasses.dataclass(frozen=True)
class Description:
    """The meaning of a field and the values that it accepts."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None  # an exclusive minimum
    below: float | None = None  # an exclusive maximum
    besides: Mapping[float, str] = dataclasses.field(default_factory=dict)
    """A value outside of the bounds -> what it stands for."""

    choices: Collection[str] = ()  # such as the dictionary that holds them
    choices_in: str = ""
    """`module:DICTIONARY` of the choices, where objects from outside are taken, too.

    It is read to be shown only, so it may lie above the configuration. What uses the field checks
    its value.
    """

    def accepts(self, value: Any) -> bool:
        """Returns whether a value of the right type is a choice, or inside of the bounds."""
        if self.choices:
            return value in self.choices
        is_inside = (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )
        return is_inside or value in self.besides

    def accepted(self, name: str) -> str:
        """Returns what a field of this name accepts, such as `at least 1`; empty if anything."""
        if self.choices_in:
            choices = import_object(self.choices_in, name)
            return f"one of {', '.join(choices)}, or file.py:ATTRIBUTE"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        others = "".join(f", or {value} for {what}" for value, what in self.besides.items())
        return self._bounds(name) + others

    def _bounds(self, name: str) -> str:
        if self.maximum is None and self.below is None:
            if self.above is not None:
                return f"above {self.above}"
            return "" if self.minimum is None else f"at least {self.minimum}"
        low = "" if self.minimum is None else f"{self.minimum} <= "
        low = low if self.above is None else f"{self.above} < "
        high = f"<= {self.maximum}" if self.below is None else f"< {self.below}"
        return f"{low}{name} {high}"


def described(default: T, help: str, **accepted: Any) -> T:
    """Returns a dataclass field with a default and a `Description` of these arguments."""
    return _field(default, Description(help, **accepted))


def described_in(config_type: type, name: str, default: T) -> T:
    """Returns a dataclass field as a base class describes it, with another default."""
    return _field(default, _description(config_type, name))


def _field(default: Any, description: Description) -> Any:
    return dataclasses.field(default=default, metadata={"description": description})


def description_of(field: "dataclasses.Field[Any]") -> Description:
    """Returns the description of a field, an empty one if it was not `described`."""
    return field.metadata.get("description", Description(""))


def _description(config_type: type, name: str) -> Description:
    (field,) = (field for field in dataclasses.fields(config_type) if field.name == name)
    return description_of(field)


def choices_of(config_type: type, name: str) -> tuple[str, ...]:
    """Returns the values that a field of a dataclass accepts."""
    return tuple(_description(config_type, name).choices)


_TYPES: dict[str, tuple[Any, str]] = {
    "int": (numbers.Integral, "an integer"),
    "float": (numbers.Real, "a number"),
    "str": (str, "a text"),
    "bool": (bool, "true or false"),
}


def validate_fields(config: Any, path: str) -> None:
    """Checks the type and the value of every field of a dataclass and of its parts.

    Types are checked of numbers, texts, bools and parts, values where they are described. Numbers
    must be those of int32 and float32 in any case.

    Args:
      path: prefix of the names of the fields in messages, such as `samples.`.

    Raises:
      UserError: a field does not accept its value.
    """
    for field in dataclasses.fields(config):
        value: Any = getattr(config, field.name)
        if expected := _expected(field, value):
            raise UserError(f"{path}{field.name} is {shown(value)}; expected {expected}")
        if dataclasses.is_dataclass(value):
            validate_fields(value, f"{path}{field.name}.")


def expected_type(field: "dataclasses.Field[Any]", value: Any) -> str:
    """Returns the type of a field, such as `an integer`, if the value has another, else ""."""
    accepted, expected = _TYPES.get(_declared(field), (object, ""))
    is_number = accepted in (numbers.Integral, numbers.Real)
    if not isinstance(value, accepted) or (is_number and isinstance(value, bool)):
        return expected
    return "a text without NUL" if isinstance(value, str) and "\0" in value else ""


def _declared(field: "dataclasses.Field[Any]") -> str:
    return getattr(field.type, "__name__", str(field.type))  # the text of a quoted annotation


def _expected(field: "dataclasses.Field[Any]", value: Any) -> str:
    """Returns what a field accepts if that excludes the value, else an empty text."""
    declared, description = _declared(field), description_of(field)
    if expected := expected_type(field, value):
        return expected
    if dataclasses.is_dataclass(field.type) and not dataclasses.is_dataclass(value):
        return f"a {declared}"
    if not description.accepts(value):
        return description.accepted(field.name)
    if declared == "float" and not abs(value) <= _LARGEST_FLOAT:
        return "a finite number of float32"
    largest = _LARGEST_INT if description.maximum is None else description.maximum
    if declared == "int" and abs(value) > largest:
        return f"at most {largest}"
    return ""
