"""How much work a template may do: steps, which are counted before text is made or read.

A step is one turn of a loop, one call, 32 characters or one item that are made, 100 characters or
10 items that are read. A value that holds another one twice counts it twice, as its text does.
"""

import codecs
import math
import re
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from typing import Any, NamedTuple

STEPS = 1_000_000  # of a template, and one more for each character and item that it is given
_MADE, _READ_CHARACTERS, _READ_ITEMS = 32, 100, 10  # a step
_MOST_BITS = 100_000  # of a whole number: division takes quadratic time
_MOST_SLOW = 10_000  # characters of what takes quadratic time
_SLOW = {"pprint", "striptags", "urlize", "wordwrap", "xmlattr"}
_SLOW_CODECS = {"idna", "punycode"}
_CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)
_WIDTH = re.compile(r"\d+")


class TooMuchWork(RuntimeError):
    """A template takes more steps than it may."""


class Size(NamedTuple):
    """How large the text of a value is, about."""

    characters: int
    items: int  # values, and those that they hold
    depth: int

    @property
    def text(self) -> int:
        """Characters of its text: within a list, quotes, escapes and commas, too."""
        return self.characters * (4 if self.depth else 1) + 32 * self.items

    @property
    def steps(self) -> int:
        """Steps of reading it."""
        return self.characters // _READ_CHARACTERS + self.items // _READ_ITEMS


class Work:
    """Counts the steps of a template that is filled in."""

    def __init__(self) -> None:
        self._left = STEPS

    def begin(self, values: Mapping[str, Any]) -> None:
        """Counts from the first step on, for a template that is given these values."""
        self._left = STEPS
        size = self.measure(values, float("inf"))
        self._left = STEPS + size.characters + size.items

    def spend(self, steps: int) -> None:
        """Counts steps. Raises TooMuchWork."""
        self._left -= steps
        if self._left < 0:
            raise TooMuchWork(f"more than {STEPS:,} steps of loops, calls and text")

    def make(self, characters: int) -> None:
        """Counts characters that are about to be made. Raises TooMuchWork."""
        self.spend(characters // _MADE)

    def make_text(self, *values: Any) -> None:
        """Counts the characters of values as text. Raises TooMuchWork."""
        for value in values:
            self.make(len(value) if isinstance(value, str) else self.measure(value).text)

    def read(self, *values: Any) -> None:
        """Counts values that are about to be read. Raises TooMuchWork."""
        for value in values:
            kind = type(value)
            if kind is str:
                self.spend(len(value) // _READ_CHARACTERS)
            elif kind is not bool and kind is not int:
                self.spend(self.measure(value).steps)

    def check(self, value: Any) -> Any:
        """Returns a value that was made, whose items are counted. Raises TooMuchWork."""
        if isinstance(value, str | bytes):
            self.make(len(value))
        elif isinstance(value, (*_CONTAINERS, Mapping)):
            self.spend(len(value))
        elif type(value) is int and value.bit_length() > _MOST_BITS:
            raise TooMuchWork(f"a number of more than {_MOST_BITS:,} bits")
        return value

    def measure(self, value: Any, most: float | None = None) -> Size:
        """Returns the size of a value.

        Args:
          most: the steps it may take to read it; None: those that are left.

        Raises:
          TooMuchWork: it takes more.
        """
        most = self._left if most is None else most
        characters, items, deepest = 0, 0, 0
        waiting: list[tuple[Iterable[Any], int]] = [((value,), 0)]
        while waiting:
            level, depth = waiting.pop()
            deepest = max(deepest, depth)
            for each in level:
                items += 1
                if isinstance(each, str | bytes):
                    characters += len(each)
                elif isinstance(each, Mapping):
                    waiting += [(each.keys(), depth + 1), (each.values(), depth + 1)]
                elif isinstance(each, _CONTAINERS):
                    waiting.append((each, depth + 1))
                elif isinstance(each, range):
                    items += len(each)
                elif isinstance(each, int):
                    characters += each.bit_length() // 3
            if items // _READ_ITEMS + characters // _READ_CHARACTERS > most:
                self.spend(STEPS + 1 + self._left)
        return Size(characters, items, deepest)

    # What makes more than it reads ----------------------------------------------------------------

    def times(self, left: Any, right: Any) -> Any:
        """Returns a product. Raises TooMuchWork."""
        for many, number in ((left, right), (right, left)):
            if isinstance(many, str | bytes):
                self.make(len(many) * max(_whole(number), 0))
            elif isinstance(many, list | tuple):
                self.spend(len(many) * max(_whole(number), 0))
        self._number(_bits(left) + _bits(right))
        return left * right

    def power(self, base: Any, exponent: Any) -> Any:
        """Returns a power. Raises TooMuchWork."""
        self._number(_bits(base) * max(_whole(exponent), 0))
        return base**exponent

    def plus(self, left: Any, right: Any) -> Any:
        """Returns a sum. Raises TooMuchWork."""
        self.check(left)
        self.check(right)
        return left + right

    def modulo(self, left: Any, right: Any) -> Any:
        """Returns a remainder, or a text that `%` formats. Raises TooMuchWork."""
        if isinstance(left, str | bytes):
            self.make(self._formatted(str(left), right))
        return left % right

    def _number(self, bits: int) -> None:
        if bits > _MOST_BITS:
            raise TooMuchWork(f"a number of more than {_MOST_BITS:,} bits")

    def before(self, name: str, values: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Counts what a filter, a function or a method is about to make.

        Args:
          values: what it is given; the first is what it is applied to.

        Raises:
          TooMuchWork: that is too much.
        """
        if name in _SLOW:
            size = self.measure((values, named)).text
            if size > _MOST_SLOW + 1000:
                raise TooMuchWork(f"{name} of more than {_MOST_SLOW:,} characters")
            self.spend(size)
        elif name in _MAKES:
            self.make(_MAKES[name](self, values, named))

    def _formatted(self, form: str, given: Any) -> int:
        """Returns the most characters that a form makes: each field may hold all that is given."""
        fields = form.count("%") + form.count("{")
        width = max(map(int, _WIDTH.findall(form)), default=0)
        if "*" in form or re.search(r"\{[^}]*\{", form):
            width += max((abs(x) for x in _numbers(given)), default=0)
        return len(form) + fields * (width + self.measure(given).text)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _numbers(value: Any) -> list[int]:
    """Returns the whole numbers of a value and of the tuples and mappings in it, two deep."""
    level, found = [value], []
    for _ in range(3):
        found += [x for x in level if isinstance(x, int)]
        inner = (x.values() if isinstance(x, dict) else x for x in level)
        level = [y for x in inner if isinstance(x, _CONTAINERS) for y in x]
    return found


def _all(values: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    return [*values, *named.values()]


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 64


def _wide(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    """Returns the largest number: a width, or how many there will be, 8 bytes each."""
    return 8 * max(map(_whole, _all(values[1:], named)), default=0) + _length(values[0])


def _lorem(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    return 5_000 * math.prod(max(_whole(x), 1) for x in _all(values, named))


def _lines(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    """Returns the characters of an indented text."""
    text = str(values[0])
    width = max((_whole(x) or _length(x) for x in _all(values[1:], named)), default=4)
    return len(text) + (len(text.splitlines()) + 1) * width


def _tabs(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    tab = b"\t" if isinstance(values[0], bytes) else "\t"
    return _length(values[0]) + values[0].count(tab) * _wide(work, [64, *values[1:]], named)


def _replaced(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    if len(values) > 2 and all(isinstance(x, str) for x in values[:3]):
        return len(values[0]) + values[0].count(values[1]) * len(values[2])
    return work.measure(values[0]).text * work.measure(_all(values, named)).text


def _joined(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    """Returns the characters of items and of what stands between them."""
    size = work.measure(values[0])
    between = max((work.measure(x).text for x in _all(values[1:], named)), default=0)
    return size.text + size.items * between


def _translated(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    return _length(values[0]) * (1 + work.measure(values[1:]).characters)


def _formatted(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    return work._formatted(str(values[0]), (*values[1:], dict(named)))


def _json(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    size = work.measure(values[0])
    indent = max((_whole(x) or _length(x) for x in _all(values[1:], named) if x), default=0)
    return 6 * size.text + size.items * size.depth * indent


def _coded(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    """Returns the bytes of a text. Raises TooMuchWork for those that take quadratic time."""
    for name in _all(values[1:], named):
        try:
            is_slow = codecs.lookup(name).name in _SLOW_CODECS
        except (LookupError, TypeError):
            continue
        if is_slow and _length(values[0]) > _MOST_SLOW:
            raise TooMuchWork(f"{name} of more than {_MOST_SLOW:,} characters")
    return 4 * _length(values[0])


def _rounded(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    work._number(4 * max((abs(_whole(x)) for x in _all(values[1:], named)), default=0))
    return 0


def _summed(work: Work, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    """Returns the bytes of all sums of lists, each of which holds those before."""
    if all(isinstance(x, int | float | str) for x in _all(values[1:], named)):
        return 0
    size = work.measure(values[0])
    return 8 * size.items * size.items


_Estimate = Callable[[Work, Sequence[Any], Mapping[str, Any]], int]
_MAKES: dict[str, _Estimate] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "to_bytes", "batch", "slice"), _wide),
    **dict.fromkeys(("encode", "decode"), _coded),
    **dict.fromkeys(("format", "format_map"), _formatted),
    "expandtabs": _tabs,
    "indent": _lines,
    "join": _joined,
    "lipsum": _lorem,
    "generate_lorem_ipsum": _lorem,
    "replace": _replaced,
    "round": _rounded,
    "sum": _summed,
    "tojson": _json,
    "translate": _translated,
}
