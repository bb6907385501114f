"""jinja2 templates of users and of files: they run in a sandbox, and a fault in one is one line."""

import datetime
import json
from collections.abc import Mapping
from typing import Any

from lm_jax.errors import UserError

_LONGEST_FAULT = 200  # characters
_MOST_NUMBERS = 1_000_000  # that `range` gives while a template is filled in once
_LARGEST_PRODUCT = 1_000_000  # items of a list, characters of a text, or bits of a number


class UserTemplate:
    """A template, compiled; it cannot reach Python's objects or change what it is given."""

    def __init__(self, source: str, origin: str, is_strict: bool = True):
        """Compiles a template.

        Args:
          origin: what gives the template, for messages.
          is_strict: whether a name that it is not given is a fault, or empty.

        Raises:
          UserError: it has a syntax error.
        """
        import jinja2
        import jinja2.sandbox

        self._origin, self._numbers = origin, 0
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined if is_strict else jinja2.Undefined,
            extensions=["jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _to_json  # jinja2's own escapes for HTML
        environment.intercepted_binops = frozenset(("*", "**"))
        environment.binop_table |= {"*": _times, "**": _power}
        environment.globals["range"] = self._range
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"{origin}, line {error.lineno}: {error.message}; expected a jinja2 template"
            ) from None
        except Exception as error:  # it compiles to Python, whose limits raise many types
            what = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_FAULT]
            raise UserError(
                f"{origin} cannot be compiled ({what}); expected a jinja2 template"
            ) from None

    def fill(self, values: Mapping[str, Any], where: str = "") -> str:
        """Returns the text of the template with these values.

        Args:
          where: what the values are of, for messages.

        Raises:
          UserError: the template raises an error.
        """
        self._numbers = 0
        try:
            return self._template.render(values)
        except Exception as error:  # whatever a template of others does
            what = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_FAULT]
            given = ", ".join(values)
            raise UserError(
                f"{where + ': ' if where else ''}{self._origin} raises {what}; it is given {given}"
            ) from None

    def _range(self, *bounds: int) -> range:
        import jinja2.sandbox

        found = jinja2.sandbox.safe_range(*bounds)  # up to 100,000
        self._numbers += len(found)
        if self._numbers > _MOST_NUMBERS:
            raise OverflowError(f"range gives more than {_MOST_NUMBERS:,} numbers")
        return found


def _times(left: Any, right: Any) -> Any:
    sizes = [len(x) if hasattr(x, "__len__") else x for x in (left, right)]
    if any(hasattr(x, "__len__") for x in (left, right)):
        too_large = sizes[0] * sizes[1] > _LARGEST_PRODUCT
    else:
        too_large = _bits(left) + _bits(right) > _LARGEST_PRODUCT
    if too_large:
        raise OverflowError("a product is too large")
    return left * right


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(exponent, int) and _bits(base) * exponent > _LARGEST_PRODUCT:
        raise OverflowError("a power is too large")
    return base**exponent


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _raise(message: str) -> str:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
