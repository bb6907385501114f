"""What the configurations of all kinds of data declare."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lm_jax.choices import choose


def check_choice(field: str, given: str, choices: Mapping[str, Any]) -> None:
    """Raises UserError unless a field names one of its choices, or something from outside."""
    choose(choices, given, f"data.{field}")


class DataKind:
    """What every configuration of data declares. A kind from outside also has `prepare()`."""

    kind: ClassVar[str]  # key of `KINDS`; for a kind from outside, `module:CLASS`
    has_text: ClassVar[bool] = True  # whether a tokenizer encodes the data
    of_batches: ClassVar[tuple[str, ...]] = ()  # fields that decide batches, and not the data
    source: str  # key of the readers of the kind
    path: str

    @property
    def origin(self) -> str:
        """Where the data is read from, for messages and descriptions."""
        return self.path

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that the fields name."""
        return (self.path,)

    @property
    def files_read(self) -> tuple[str, ...] | None:
        """The paths of all files that decide what the data is; None: other things decide, too."""
        return tuple(filter(None, self.paths)) if self.source == "files" else None

    @classmethod
    def small(cls) -> Self:
        """Returns a configuration of small or made-up data; labelled texts have no path yet."""
        return cls()

    @property
    def expected_sizes(self) -> dict[str, int] | None:
        """The sizes that the data decides of a model, if known before reading; else None."""
        return None

    def validate(self) -> None:
        """Raises UserError for a value that cannot be used."""
