"""A data set that is ready to make batches from."""

from typing import Any, Generic, NamedTuple, TypeVar

from lm_jax.data.cache import MappedFiles

S = TypeVar("S")  # of a split
K = TypeVar("K")  # Tokenizer; None for images


class Dataset(NamedTuple, Generic[S, K]):
    """The splits, the tokenizer of their texts, and the description that a run records."""

    train: S
    validation: S
    description: dict[str, Any]
    tokenizer: K
    test: S | None = None  # None: the data has no test split
    files: MappedFiles | None = None  # that the arrays are mapped from; None: they are in memory

    @property
    def splits(self) -> dict[str, S]:
        """The splits by name; `test` only where there is one."""
        found = {"train": self.train, "validation": self.validation}
        return found if self.test is None else found | {"test": self.test}

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that the data decides of a model, such as `vocab_size`."""
        return self.description["sizes"]

    @property
    def labels(self) -> list[str]:
        """The names of the classes in the order of their ids; [] where there are no labels."""
        return self.description.get("labels", [])
