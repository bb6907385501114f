"""jinja2 templates of users and of files: they run in a sandbox, and a fault in one is one line."""

import datetime
import json
from collections.abc import Mapping
from typing import Any

from lm_jax.errors import UserError

_LONGEST_FAULT = 200  # characters


class UserTemplate:
    """A template, compiled; it cannot reach Python's objects or change what it is given.

    The time and the memory that it may take have a bound, too.
    """

    def __init__(self, source: str, origin: str, is_strict: bool = True):
        """Compiles a template.

        Args:
          origin: what gives the template, for messages.
          is_strict: whether a name that it is not given is a fault, or empty.

        Raises:
          UserError: it has a syntax error.
        """
        import jinja2

        from lm_jax.template_sandbox import BoundedSandbox

        self._origin = origin
        self._sandbox = BoundedSandbox(
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined if is_strict else jinja2.Undefined,
            extensions=["jinja2.ext.loopcontrols"],
        )
        self._sandbox.add_filter("tojson", _to_json)  # jinja2's own escapes for HTML
        self._sandbox.globals |= {"raise_exception": _raise, "strftime_now": _now}
        try:
            self._template = self._sandbox.compiled(source)
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
          UserError: the template raises an error, or takes too much time or memory.
        """
        from lm_jax.template_work import TooMuchWork

        origin = f"{where + ': ' if where else ''}{self._origin}"
        try:
            return self._sandbox.filled(self._template, values)
        except TooMuchWork as error:
            raise UserError(
                f"{origin} takes too much time or memory: {error}; give one with less work"
            ) from None
        except Exception as error:  # whatever a template of others does
            what = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_FAULT]
            given = ", ".join(values)
            raise UserError(f"{origin} raises {what}; it is given {given}") from None


def _raise(message: str) -> str:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
