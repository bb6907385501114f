"""What a format of records is: how a file of it is recognised, and how its records are read."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from lm_jax.data.content import Content
from lm_jax.data.utf8 import Decoder


class Record(NamedTuple):
    """The fields of one record, and where it stands."""

    values: dict[str, Any]
    origin: str  # path:line, or the number of the record where there are no lines


class Request(NamedTuple):
    """What is wanted of each record."""

    fields: Sequence[str]  # those it must have
    decoder: Decoder
    advice: str = ""  # what else a user can do about a file without these fields
    optional: Sequence[str] = ()  # fields that are read where there are any
    part: int = 0  # of `parts`, each of which is every `parts`-th record
    parts: int = 1


class Format(NamedTuple):
    """A format of records."""

    matches: Callable[[Content, Request], bool]
    """Whether a file is of this format, by its name or first bytes.

    Raises UserError if it is, and cannot be read or lacks the fields.
    """

    read: Callable[[Content, Request], Iterator[Record]]
    """Yields the records, one at a time, but those that the decoder skips.

    Raises UserError for a record that is damaged or lacks a field.
    """

    reads_parts: bool = False
    """Whether `read` yields one part only, and passes over the others without parsing them."""
