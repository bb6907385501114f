"""Renders the templates of pages, page sections and SVG charts; everything is escaped."""

import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from lm_jax.plurals import counted


def render(template: str, **values: Any) -> Markup:
    """Returns a template filled with values, as markup that other templates do not escape again.

    Args:
      template: a path below `templates/`.
      values: what the template names; text among them is escaped, `Markup` is not.

    Raises:
      jinja2.UndefinedError: the template uses a name that `values` lacks.
    """
    return Markup(_ENVIRONMENT.get_template(template).render(values))  # noqa: S704


def _asset(name: str) -> Markup:
    """Returns a style sheet or script of `templates/` as it is."""
    source, _, _ = _LOADER.get_source(_ENVIRONMENT, name)
    return Markup(source)  # noqa: S704


def _flags(text: str) -> Markup:
    """Returns a command whose flags move to the next line whole: a browser breaks after hyphens."""
    parts = re.split(r"((?<=\s)'?--\S+)", text)
    whole = Markup('<span class="flag">{}</span>')
    return Markup("").join(
        whole.format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def _breakable(text: str) -> Markup:
    """Returns a name whose line may break after commas, but for those of numbers such as 1,024."""
    return Markup(",<wbr>").join(map(escape, re.split(r",(?=\D)", text)))


def _is_numeric(cell: object) -> bool:
    """Returns whether a cell is a number, with its error or unit, or an interval."""
    number = r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?"
    return (
        re.fullmatch(rf"{number}( ± {number}| to {number})?( ?[%a-zA-Z]{{1,2}})?", str(cell))
        is not None
    )


_LOADER = jinja2.PackageLoader("lm_jax.reports")
_ENVIRONMENT = jinja2.Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals["asset"] = _asset
_ENVIRONMENT.globals["counted"] = counted
_ENVIRONMENT.filters["px"] = "{:.1f}".format  # coordinates of SVG
_ENVIRONMENT.filters["flags"] = _flags
_ENVIRONMENT.filters["breakable"] = _breakable
_ENVIRONMENT.tests["numeric"] = _is_numeric
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
