"""Configurations of data: one dataclass for each kind, one for tokenizers.

What can be chosen by name is the keys of a dictionary, which stands where the choices are
implemented. A reader or a tokenizer from outside is named `module:ATTRIBUTE` or
`path/to/file.py:ATTRIBUTE`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lm_jax.choices import choose
from lm_jax.data import readers
from lm_jax.data.classification import images, labelled_text
from lm_jax.data.cleaning import SPLITS
from lm_jax.data.seq2seq import readers as pair_readers
from lm_jax.data.seq2seq.synthetic import TASKS
from lm_jax.data.sources import parse_epochs, parse_sources, parse_weights
from lm_jax.data.text.packing import PACKINGS
from lm_jax.data.tokenizers import TOKENIZERS, train_tokenizer
from lm_jax.data.utf8 import INVALID_UTF8
from lm_jax.errors import UserError
from lm_jax.fields import described, validate_fields


@dataclasses.dataclass
class TokenizerConfig:
    """A tokenizer, trained on the training split.

    `byte` (UTF-8, nothing to train), `char`, `bpe` and `unigram` are lossless on any Unicode text.
    `word` (runs of letters and digits, single other signs) and `whitespace` (runs of anything but
    white space) lose spaces and unknown words; a line end is a word. `huggingface`, `sentencepiece`
    and `tiktoken` are read from the files at `path`.
    """

    kind: str = described(
        "bpe", "The unit of a token.", choices_in="lm_jax.data.tokenizers:TOKENIZERS"
    )
    vocab_size: int = described(
        2048, "An upper bound for char, word and whitespace; unused by byte.", minimum=1
    )
    lowercase: bool = described(False, "word, whitespace: lower the case of all text.")
    minimum_count: int = described(
        1, "word, whitespace: rarer words of the training split are unknown.", minimum=1
    )
    unknown: bool = described(
        True, "word, whitespace: encode unknown words as <unk>; false: refuse them."
    )
    training_characters: int = described(
        20_000_000, "Most characters to train it on: a sample of the training split.", minimum=1
    )
    path: str = described(
        "",
        "A run whose tokenizer is taken instead, whatever its kind; huggingface, sentencepiece, "
        "tiktoken: also a file, or a directory that holds it. Fields of training have no effect.",
    )
    end_of_document: str = described(
        "",
        "huggingface: the token that ends a document; empty: the eos_token of its files, else "
        "<|endoftext|>, </s>, <eos> or <|end_of_text|>.",
    )

    @property
    def expected_vocab_size(self) -> int:
        """The size before training, an upper bound for char and words; exact for other kinds.

        Raises:
          UserError: there is no tokenizer at `path`.
        """
        if self.path:
            return train_tokenizer(self, []).vocab_size
        return choose(TOKENIZERS, self.kind, "data.tokenizer.kind").fixed_size or self.vocab_size

    def validate(self) -> None:
        """Raises UserError for an unknown kind or an impossible number."""
        if choose(TOKENIZERS, self.kind, "data.tokenizer.kind").read and not self.path:
            raise UserError(
                f"data.tokenizer.kind={self.kind} reads the files of a tokenizer; set "
                "data.tokenizer.path to a file or a directory"
            )


def tokenizer_of(name: str) -> TokenizerConfig:
    """Returns the configuration that KIND, KIND:VOCABULARY or KIND:PATH names.

    Raises:
      UserError: there is no such kind, or it needs a path.
    """
    kind, _, given = name.partition(":")
    choose(TOKENIZERS, kind, f"the tokenizer {name!r}")
    config = TokenizerConfig(kind)
    if given.isdecimal():
        config.vocab_size = int(given)
    else:
        config.path = given
    config.validate()
    if not config.vocab_size:
        raise UserError(f"the tokenizer {name!r} has no ids; give a vocabulary of at least 1")
    return config


PLACES = (
    "path",
    "sources",
    "tasks",
    "target_path",
    "validation_path",
    "validation_target_path",
    "test_path",
    "test_target_path",
)
"""Fields that say where data is. A run knows its data by a fingerprint, so they may change."""


def _check_choice(field: str, given: str, choices: Mapping[str, Any]) -> None:
    choose(choices, given, f"data.{field}")


class DataKind:
    """What every configuration of data declares. A kind from outside also has `prepare()`."""

    kind: ClassVar[str]  # key of `KINDS`; for a kind from outside, `module:CLASS`
    has_text: ClassVar[bool] = True  # whether a tokenizer encodes the data
    of_batches: ClassVar[tuple[str, ...]] = ()  # fields that decide batches, and not the data
    path: str

    @property
    def origin(self) -> str:
        """Where the data is read from, for messages and descriptions."""
        return self.path

    @property
    def files_read(self) -> tuple[str, ...] | None:
        """The paths of all files that decide what the data is; None: other things decide, too."""
        return None

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
        "files: held-out texts, as path; empty: split decides what is held out. tokens: held-out "
        "files; empty: the last documents.",
    )
    invalid_utf8: str = described(
        "refuse",
        "files: what becomes of bytes that are not UTF-8; replace: each by U+FFFD, skip: leave out "
        "the document; both are counted.",
        choices=INVALID_UTF8,
    )
    test_path: str = described(
        "",
        "files: texts for launch.evaluate --split=test; tfds: the data set whose test split it is. "
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
    def files_read(self) -> tuple[str, ...] | None:
        """The paths of texts."""
        if self.source != "files":
            return None
        mixed = parse_sources(self.sources).values()
        return (self.path, *mixed, self.validation_path, self.test_path)

    @property
    def expected_sizes(self) -> dict[str, int]:
        """The tokenizer's maximum vocabulary size."""
        return {"vocab_size": self.tokenizer.expected_vocab_size}

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        validate_fields(self, "data.")
        _check_choice("source", self.source, readers.READERS)
        _check_choice("split", self.split, SPLITS)
        _check_choice("packing", self.packing, PACKINGS)
        self.tokenizer.validate()
        names = list(parse_sources(self.sources))
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


@dataclasses.dataclass
class LabelledTextConfig(DataKind):
    """Texts with a label each: `label<TAB>text`, JSONL or CSV of `label` and `text`, or tfds."""

    kind: ClassVar[str] = "labelled_text"

    source: str = described(
        "files", "The reader.", choices_in="lm_jax.data.classification.labelled_text:READERS"
    )
    path: str = described("", "files: a file, a directory or a glob; tfds: the name of a data set.")
    validation_path: str = described(
        "", "files: held-out texts; empty: a hash of each text decides."
    )
    test_path: str = described(
        "",
        "files: texts for launch.evaluate --split=test; tfds: the data set whose test split it is, "
        "which then no longer serves as validation. Empty: no test split.",
    )
    validation_fraction: float = described(
        0.1, "Share that is held out, unless the source holds out a split.", above=0, below=1
    )
    cache_directory: str = described(
        "",
        "Where prepared data is kept; empty: $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data.",
    )
    tokenizer: TokenizerConfig = dataclasses.field(
        default_factory=lambda: TokenizerConfig(kind="word", vocab_size=20_000, lowercase=True)
    )

    @property
    def files_read(self) -> tuple[str, ...] | None:
        """The paths of texts."""
        if self.source != "files":
            return None
        return (self.path, self.validation_path, self.test_path)

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        validate_fields(self, "data.")
        _check_choice("source", self.source, labelled_text.READERS)
        self.tokenizer.validate()
        if self.source in labelled_text.READERS and not self.path:
            raise UserError(f"data.source={self.source} needs data.path: what should be read?")


@dataclasses.dataclass
class ImageConfig(DataKind):
    """Images with a label each; pixels are numbers from 0 to 1."""

    kind: ClassVar[str] = "images"
    has_text: ClassVar[bool] = False

    source: str = described(
        "digits",
        "The reader; digits: scikit-learn's, and_gate: four points.",
        choices_in="lm_jax.data.classification.images:READERS",
    )
    path: str = described("", "idx: a directory; npz: a file; tfds: the name of a data set.")
    test_path: str = described(
        "",
        "As path: whose test images launch.evaluate --split=test measures; the same as path: they "
        "no longer serve as validation. Empty: no test split.",
    )
    validation_fraction: float = described(
        0.1, "Share that is held out, unless there is a test split.", above=0, below=1
    )
    label_names: str = described(
        "", "Names of the classes, comma-separated; empty: those of the data set, or numbers."
    )
    crop_padding: int = described(
        0, "Augmentation: pixels of zeros on each side before a random crop.", minimum=0
    )
    flip: bool = described(False, "Augmentation: mirror left to right with probability 1/2.")
    cache_directory: str = described(
        "",
        "Where prepared data is kept; empty: $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data.",
    )

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        validate_fields(self, "data.")
        _check_choice("source", self.source, images.READERS)
        if self.source in images.READERS_OF_PATHS and not self.path:
            raise UserError(f"data.source={self.source} needs data.path")
        if self.source in images.READERS_WITHOUT_PATH and (self.path or self.test_path):
            field = "path" if self.path else "test_path"
            given = self.path or self.test_path
            raise UserError(
                f"data.source={self.source} takes no data.{field}, which is {given!r}; if that is "
                f"from the configuration, empty it: --config.data.{field}="
            )


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
    def files_read(self) -> tuple[str, ...] | None:
        """The paths of sources, of targets and of tasks."""
        if self.source != "files":
            return None
        tasks = pair_readers.parse_tasks(self.tasks).values() if self.tasks else ()
        held_out = (self.validation_path, self.validation_target_path)
        test = (self.test_path, self.test_target_path)
        return (self.path, self.target_path, *held_out, *test, *tasks)

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        validate_fields(self, "data.")
        _check_choice("source", self.source, pair_readers.READERS)
        self.tokenizer.validate()
        self.symbols.validate()
        if self.source in TASKS and (self.origin or self.test_path):
            raise UserError(
                f"data.source={self.source} makes its pairs; it takes no path: empty data.path, "
                "data.validation_path, data.test_path, data.target_path and data.tasks"
            )
        is_read = self.source in pair_readers.READERS and self.source not in TASKS
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


KINDS = {
    config.kind: config
    for config in (DataConfig, LabelledTextConfig, ParallelTextConfig, ImageConfig)
}
