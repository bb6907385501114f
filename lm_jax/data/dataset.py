"""A data set that is ready to make batches from."""

from typing import Any, Generic, NamedTuple, TypeVar

S = TypeVar("S")  # of a split
K = TypeVar("K")  # Tokenizer; None for images


class Dataset(NamedTuple, Generic[S, K]):
    """Both splits, the tokenizer of their texts, and the description that a run records."""

    train: S
    validation: S
    description: dict[str, Any]
    tokenizer: K

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that the data decides of a model, such as `vocab_size`."""
        return self.description["sizes"]

    @property
    def labels(self) -> list[str]:
        """The names of the classes in the order of their ids; [] where there are no labels."""
        return self.description.get("labels", [])
