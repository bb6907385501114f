"""The phases of a preparation: what runs over documents one by one, and where all must be known."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax.data.preparation.config import PreparationConfig
from lm_jax.data.preparation.documents import Dropped, ReadDocuments, Tally, WriteDocuments
from lm_jax.data.preparation.sealed_files import SealedFolder


class Phase(NamedTuple):
    """Blocks of datatrove that run after each other, in a number of tasks."""

    name: str
    blocks: list[Any]
    tasks: int


# texts -> bits per character of each
Scorer = Callable[[Sequence[str]], list[float]]


class LanguageModel(NamedTuple):
    """A language model that is handed in: `data/` knows no models. Both functions are importable.

    fit: (texts, directory) writes a model that is fitted to the texts.
    load: (directory) returns what scores texts with it.
    """

    fit: Callable[[list[str], Path], None]
    load: Callable[[Path], Scorer]


class Plan:
    """Phases in the making: a stage adds blocks to the last one, or phases of its own.

    Args:
      directory: where the phases keep what they write for each other.
      first: blocks that read the sources.
      language_model: what the stage `perplexity` scores texts with.
    """

    def __init__(
        self,
        config: PreparationConfig,
        directory: Path,
        first: list[Any],
        language_model: LanguageModel | None = None,
    ):
        self.config, self.directory, self.language_model = config, directory, language_model
        self.phases: list[Phase] = []
        self._blocks = first
        self._number = 0
        self.count("read")

    def add(self, block: Any) -> None:
        """Adds a block that takes one document after the other."""
        self._blocks.append(block)

    def count(self, name: str) -> None:
        """Counts the documents that are left here."""
        self.add(Tally(self.directory, name))

    def dropped(self, stage: str) -> Dropped:
        """Returns what a filter writes the documents of a stage to that it drops."""
        return Dropped(self.directory, stage)

    def folder(self, name: str) -> SealedFolder:
        """Returns a folder for what datatrove's blocks write for the next phase of a stage."""
        return SealedFolder(str(self.directory / name), work=str(self.directory))

    def stored(self) -> list[Any]:
        """Ends the phase and returns blocks that read its documents, for each phase that does."""
        self._number += 1
        directory = self.directory / f"documents_{self._number}"
        self.end(f"documents_{self._number}", WriteDocuments(self.directory, directory))
        self._blocks = [ReadDocuments(self.directory, directory)]
        return [ReadDocuments(self.directory, directory)]

    @property
    def finders(self) -> int:
        """The number of tasks that look for equal hashes, each in a range of its own."""
        return min(self.config.tasks, 16)

    def before_all(self, name: str, blocks: list[Any]) -> None:
        """Adds a phase of one task that needs no documents, and runs first."""
        self.phases.insert(0, Phase(name, blocks, 1))

    def phase(self, name: str, blocks: list[Any], tasks: int | None = None) -> None:
        """Adds a phase that leaves the documents as they are."""
        self.phases.append(Phase(name, blocks, tasks or self.config.tasks))

    def end(self, name: str, last: Any) -> None:
        """Ends the phase that is being made with a block."""
        self.phases.append(Phase(name, [*self._blocks, last], self.config.tasks))
