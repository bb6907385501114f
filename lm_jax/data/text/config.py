"""The configuration of plain text."""

import dataclasses
from typing import ClassVar

from lm_jax.data import readers
from lm_jax.data.cleaning import SPLITS
from lm_jax.data.kind import DataKind, check_choice
from lm_jax.data.sources import parse_epochs, parse_held_out, parse_sources, parse_weights
from lm_jax.data.text.packing import PACKINGS
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.data.utf8 import INVALID_UTF8
from lm_jax.errors import UserError
from lm_jax.fields import described, validate_fields


@dataclasses.dataclass
class DataConfig(DataKind):
    """Where documents come from, how they are split, and what turns them into tokens."""

    kind: ClassVar[str] = "text"
    of_batches: ClassVar[tuple[str, ...]] = ("weights", "epochs", "packing")

    source: str = described(
        "embedded",
        "The reader; embedded: CPython's language reference, stdlib: its library's source.",
        choices_in="lm_jax.data.readers:READERS",
    )
    path: str = described(
        "",
        "files: a file, directory, glob or URL; tfds: the name of a data set; tokens: files of "
        "nanoGPT, llm.c or Megatron.",
    )
    sources: str = described(
        "", 'files: instead of path, texts that are mixed: "NAME=PATH; NAME=PATH".'
    )
    weights: str = described(
        "",
        'sources: shares of the training sequences, "NAME=0.7, NAME=0.3"; those of a later step on '
        'follow a semicolon: "; STEP: NAME=0.5, NAME=0.5". Empty: by their sizes.',
    )
    epochs: str = described(
        "", 'sources: most passes over some of them, "NAME=4"; then the others share their part.'
    )
    text_feature: str = described(
        "",
        "tfds: the feature that holds the text; empty: the only text feature. files: the field of "
        "JSONL or the column of CSV, Parquet or Arrow; empty: text.",
    )
    validation_path: str = described(
        "",
        "files: held-out texts, as path, or as sources; empty: split decides what is held out. "
        "tokens: held-out files; empty: the last documents.",
    )
    invalid_utf8: str = described(
        "refuse",
        "files: what becomes of bytes that are not UTF-8; replace: each by U+FFFD, skip: leave out "
        "the document; both are counted.",
        choices=INVALID_UTF8,
    )
    test_path: str = described(
        "",
        "files: texts for launch.evaluate --split=test, as path, or as sources; tfds: the data set "
        "whose test split it is. "
        "Training keeps none of their paragraphs. Empty: no test split.",
    )
    split: str = described(
        "documents",
        "What is held out; documents: whole ones, by a hash of each; tail: the end of each.",
        choices_in="lm_jax.data.cleaning:SPLITS",
    )
    validation_fraction: float = described(
        0.1, "Share of the text that is held out.", above=0, below=1
    )
    drop_repeated_paragraphs: bool = described(
        True, "Keep the first copy of a paragraph only: splits must not share them."
    )
    cache_directory: str = described(
        "",
        "Where prepared data is kept; empty: $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data.",
    )
    packing: str = described(
        "stream",
        "How documents fill rows of training; stream: one after the other, cut where a row ends, "
        "best_fit: whole, with padding, unless they are longer than a row.",
        choices_in="lm_jax.data.text.packing:PACKINGS",
    )
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)

    @property
    def origin(self) -> str:
        """The path or the sources, for messages and descriptions."""
        return self.path or self.sources

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of texts and of held-out texts."""
        mixed = parse_sources(self.sources).values()
        held_out = self.paths_by_source("validation_path").values() or [self.validation_path]
        tested = self.paths_by_source("test_path").values() or [self.test_path]
        return (self.path, *mixed, *held_out, *tested)

    def paths_by_source(self, field: str) -> dict[str, str]:
        """Returns the path of the held-out texts of each source; {}: they have none of their own.

        Args:
          field: `validation_path` or `test_path`.
        """
        names = list(parse_sources(self.sources))
        return parse_held_out(getattr(self, field), names, f"data.{field}")

    @property
    def expected_sizes(self) -> dict[str, int]:
        """The tokenizer's maximum vocabulary size."""
        return {"vocab_size": self.tokenizer.expected_vocab_size}

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        validate_fields(self, "data.")
        check_choice("source", self.source, readers.READERS)
        check_choice("split", self.split, SPLITS)
        check_choice("packing", self.packing, PACKINGS)
        self.tokenizer.validate()
        names = list(parse_sources(self.sources))
        self.paths_by_source("validation_path")
        self.paths_by_source("test_path")
        parse_weights(self.weights, names)
        parse_epochs(self.epochs, names)
        if names and (self.path or self.source != "files"):
            raise UserError(
                f"data.sources {self.sources!r} takes the place of data.path, with "
                "data.source=files; leave data.path empty"
            )
        if self.source in readers.READERS_OF_PATHS and not self.origin:
            raise UserError(f"data.source={self.source} needs data.path: what should be read?")
        if self.source in readers.READERS_WITHOUT_PATH and self.path:
            raise UserError(
                f"data.path {self.path!r} has no effect on data.source={self.source}; "
                "set data.source=files or data.source=tfds"
            )
        if self.test_path and self.source in readers.READERS_WITHOUT_PATH:
            raise UserError(
                f"data.test_path {self.test_path!r} has no effect on data.source={self.source}; "
                "set data.source=files or data.source=tfds, or measure other files with "
                "launch.evaluate --text=FILES"
            )
        if self.source == readers.TOKENS and not self.tokenizer.path:
            raise UserError(
                f"data.source={self.source} needs data.tokenizer.path: the tokenizer that made the "
                "files names the token that ends a document"
            )
        if self.source not in readers.READERS or self.source == "files":
            return
        unused = {"invalid_utf8": self.invalid_utf8} if self.invalid_utf8 != "refuse" else {}
        if self.validation_path and self.source != readers.TOKENS:
            unused["validation_path"] = self.validation_path
        for name, given in unused.items():
            raise UserError(
                f"data.{name} {given!r} has no effect on data.source={self.source}; "
                "set data.source=files"
            )
