"""The configurations of pairs of texts, and of made-up ones."""

import dataclasses
from typing import ClassVar, Self

from lm_jax.data.kind import DataKind, check_choice
from lm_jax.data.seq2seq import readers
from lm_jax.data.seq2seq.synthetic import TASKS
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.fields import described, validate_fields


@dataclasses.dataclass
class SymbolsConfig:
    """Sequences of made-up symbols to copy, reverse or sort."""

    num_symbols: int = described(26, "Number of different symbols.", minimum=1)
    num_training_pairs: int = described(50_000, "Number of training pairs.", minimum=1)
    num_validation_pairs: int = described(1_000, "Number of held-out pairs.", minimum=1)
    shortest: int = described(1, "Symbols in the shortest sequence.", minimum=1)
    longest: int = described(20, "Symbols in the longest sequence.", minimum=1)
    validation_shortest: int = described(
        0, "Symbols in the shortest held-out sequence; 0: as in training.", minimum=0
    )
    validation_longest: int = described(
        0,
        "Symbols in the longest held-out sequence; 0: as in training; longer: generalisation.",
        minimum=0,
    )
    seed: int = described(0, "Seed of the sequences.", minimum=0)

    def validate(self) -> None:
        """Raises UserError for an impossible value."""
        shortest, longest = self.lengths_to_validate
        if self.shortest > self.longest or shortest > longest:
            raise UserError(
                f"data.symbols: the shortest ({self.shortest}, {shortest} to validate) is longer "
                f"than the longest ({self.longest}, {longest} to validate)"
            )

    @property
    def lengths_to_validate(self) -> tuple[int, int]:
        """The lengths of the shortest and the longest sequence of the validation split."""
        longest = self.validation_longest or self.longest
        return self.validation_shortest or self.shortest, longest


@dataclasses.dataclass
class ParallelTextConfig(DataKind):
    """Pairs of a source and a target text.

    JSONL and CSV with a header hold `source`, `target` and optionally `document`; .po is a gettext
    catalogue; any other file holds lines of source<TAB>target, optionally with a third column, the
    document. With `target_path` two files are aligned line by line. With
    `tasks` each source begins with the instruction of its task.
    """

    kind: ClassVar[str] = "parallel_text"

    source: str = described(
        "files",
        "The reader; copy, reverse, sort: pairs of made-up symbols.",
        choices_in="lm_jax.data.seq2seq.readers:READERS",
    )
    path: str = described(
        "", "files: a file, a directory or a glob; tfds: the name of a translation set."
    )
    target_path: str = described("", "files: the targets of the sources in path, line by line.")
    validation_path: str = described(
        "", "files: held-out pairs; empty: whole documents, by a hash of each."
    )
    validation_target_path: str = described("", "The targets of validation_path, line by line.")
    test_path: str = described(
        "",
        "files: pairs for launch.evaluate --split=test; tfds: the data set whose test split it is. "
        "Empty: no test split.",
    )
    test_target_path: str = described("", "The targets of test_path, line by line.")
    tasks: str = described("", 'Instead of path: "instruction=path; instruction=path".')
    source_language: str = described("", "tfds: the language of the sources; empty: the first one.")
    validation_fraction: float = described(
        0.1, "Share of the pairs that is held out.", above=0, below=1
    )
    drop_near_copies: bool = described(
        True, "Drop pairs of one split that nearly stand in the other; symbols keep theirs."
    )
    longest_characters: int = described(
        0, "Drop pairs with a side of more characters; 0: none.", minimum=0
    )
    largest_length_ratio: float = described(
        0.0, "Drop pairs with a larger ratio of characters; 0: none.", minimum=0
    )
    truncate: bool = described(
        False, "Cut texts that are longer than the model reads; false: refuse them."
    )
    cache_directory: str = described(
        "",
        "Where prepared data is kept; empty: $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data.",
    )
    symbols: SymbolsConfig = dataclasses.field(default_factory=SymbolsConfig)
    tokenizer: TokenizerConfig = dataclasses.field(
        default_factory=lambda: TokenizerConfig(kind="bpe", vocab_size=8192)
    )

    @classmethod
    def small(cls) -> Self:
        """Returns pairs of a made-up sequence of symbols and its copy."""
        return cls(source="copy")

    @property
    def origin(self) -> str:
        """The path or the tasks, for messages and descriptions."""
        return self.path or self.tasks

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of sources, of targets and of tasks."""
        tasks = readers.parse_tasks(self.tasks).values() if self.tasks else ()
        held_out = (self.validation_path, self.validation_target_path)
        test = (self.test_path, self.test_target_path)
        return (self.path, self.target_path, *held_out, *test, *tasks)

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        validate_fields(self, "data.")
        check_choice("source", self.source, readers.READERS)
        self.tokenizer.validate()
        self.symbols.validate()
        if self.source in TASKS and (self.origin or self.test_path):
            raise UserError(
                f"data.source={self.source} makes its pairs; it takes no path: empty data.path, "
                "data.validation_path, data.test_path, data.target_path and data.tasks"
            )
        is_read = self.source in readers.READERS and self.source not in TASKS
        if is_read and bool(self.path) == bool(self.tasks):
            raise UserError(
                f"data.source={self.source} needs either data.path or data.tasks: "
                "what should be read?"
            )
        if self.source == "tfds" and self.tasks:
            raise UserError("data.tasks names files; set data.source=files")
        if self.tasks and (self.target_path or self.validation_path or self.test_path):
            raise UserError(
                "data.tasks names files of pairs, held out by a hash; leave data.target_path, "
                "data.validation_path and data.test_path empty"
            )
        if self.validation_target_path and not self.validation_path:
            raise UserError("data.validation_target_path has no data.validation_path beside it")
        if self.test_target_path and not self.test_path:
            raise UserError("data.test_target_path has no data.test_path beside it")
