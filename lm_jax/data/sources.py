"""Named sources of a mixture, their weights and their limits, as configurations spell them."""

import math
from collections.abc import Sequence

from lm_jax.errors import UserError
from lm_jax.json_values import shown
from lm_jax.whole_numbers import whole_number

PERIOD = 10_000  # sequences; weights are multiples of 1 / PERIOD


def parse_sources(given: str, field: str = "data.sources") -> dict[str, str]:
    """Returns the path of each source of "NAME=PATH; NAME=PATH".

    Args:
      field: what gives them, for messages.

    Raises:
      UserError: the string has another form, or names a source twice.
    """
    sources: dict[str, str] = {}
    for part in filter(None, map(str.strip, given.split(";"))):
        name, equals, path = (side.strip() for side in part.partition("="))
        if not (name and equals and path):
            raise UserError(f'{field} has {part!r}; expected "NAME=PATH; NAME=PATH"')
        if name in sources:
            raise UserError(f"{field} names {name} twice; expected a name for each source")
        sources[name] = path
    return sources


def parse_held_out(given: str, names: Sequence[str], field: str) -> dict[str, str]:
    """Returns the held-out path of each source, "NAME=PATH; NAME=PATH"; {} of one path for all.

    Args:
      names: of the sources; []: it is no mixture.
      field: what gives the paths, for messages.

    Raises:
      UserError: a name is that of no source, or a source is named twice.
    """
    if given.partition("=")[0].strip() not in names:
        return {}
    found = parse_sources(given, field)
    for name in found:
        if name not in names:
            raise UserError(f"{field} names {name!r}; data.sources has {', '.join(names)}")
    return found


def parse_weights(given: str, names: Sequence[str]) -> dict[int, dict[str, float]]:
    """Returns weights by the step from which they hold, each set with the sum 1; {} of "".

    The string is "NAME=0.7, NAME=0.3", and after a semicolon "STEP: NAME=0.5, NAME=0.5".

    Raises:
      UserError: the string has another form, or a weight is no number from 0 on, too small, or of
        an unknown source.
    """
    expected = 'expected "NAME=0.7, NAME=0.3", and "; STEP: NAME=..." for other weights later'
    found: dict[int, dict[str, float]] = {}
    for part in filter(None, map(str.strip, given.split(";"))):
        start, colon, weights = part.partition(":")
        if not colon:
            start, weights = "0", part
        step = whole_number(start.strip())
        if step is None or step in found:
            raise UserError(f"data.weights has {shown(part)}; {expected}")
        numbers = _numbers("data.weights", weights, names, expected)
        total = sum(numbers.values())
        if not total or min(numbers.values()) < 0:
            raise UserError(f"data.weights has {part!r}; expected numbers from 0 on, one above 0")
        found[step] = {name: numbers.get(name, 0.0) / total for name in names}
        small = [name for name, w in found[step].items() if 0 < w < 1 / PERIOD]
        if small:
            raise UserError(
                f"data.weights gives {small[0]} less than one sequence in {PERIOD:,}; leave it out"
            )
    if found and 0 not in found:
        raise UserError(f"data.weights begins at step {min(found)}; {expected}")
    return dict(sorted(found.items()))


def parse_epochs(given: str, names: Sequence[str]) -> dict[str, float]:
    """Returns the most epochs of each source that has a limit: "NAME=4, NAME=1.5".

    Raises:
      UserError: the string has another form, or a number is not above 0.
    """
    expected = 'expected "NAME=4, NAME=1.5", the most epochs of these sources'
    found = _numbers("data.epochs", given, names, expected)
    if any(number <= 0 for number in found.values()):
        raise UserError(f"data.epochs has {given!r}; {expected}, each above 0")
    return found


def _numbers(field: str, given: str, names: Sequence[str], expected: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in filter(None, map(str.strip, given.split(","))):
        name, _, value = (side.strip() for side in part.partition("="))
        if name not in names:
            raise UserError(
                f"{field} names {name!r}; data.sources has {', '.join(names) or 'none'}"
            )
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(f"{field} has {part!r}; {expected}") from None
        if not math.isfinite(found[name]):
            raise UserError(f"{field} has {part!r}; {expected}")
    return found
