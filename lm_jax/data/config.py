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
from lm_jax.data.tokenizers import TOKENIZERS
from lm_jax.errors import UserError


@dataclasses.dataclass
class TokenizerConfig:
    """A tokenizer, trained on the training split.

    `byte` (UTF-8, nothing to train), `char`, `bpe` and `unigram` are lossless on any Unicode text.
    `word` (runs of letters and digits, single other signs) and `whitespace` (runs of anything but
    white space) lose spaces and unknown words; a line end is a word.
    """

    kind: str = "bpe"  # of lm_jax.data.tokenizers.TOKENIZERS
    vocab_size: int = 2048  # an upper bound for char, word and whitespace, unused by byte
    lowercase: bool = False  # word, whitespace
    minimum_count: int = 1  # word, whitespace: rarer words of the training split are unknown
    unknown: bool = True  # word, whitespace: encode unknown words as <unk>; false: refuse them
    path: str = ""  # a run whose tokenizer is taken instead; the fields above then have no effect

    @property
    def expected_vocab_size(self) -> int:
        """The size before training: exact for byte, bpe and unigram, an upper bound otherwise."""
        return choose(TOKENIZERS, self.kind, "data.tokenizer.kind").fixed_size or self.vocab_size

    def validate(self) -> None:
        """Raises UserError for an unknown kind or an impossible number."""
        _check_choice("tokenizer.kind", self.kind, TOKENIZERS)
        for field in ("vocab_size", "minimum_count"):
            if (given := getattr(self, field)) < 1:
                raise UserError(f"data.tokenizer.{field} is {given}; expected at least 1")


def _check_choice(field: str, given: str, choices: Mapping[str, Any]) -> None:
    choose(choices, given, f"data.{field}")


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise UserError(
            f"data.validation_fraction is {fraction}; expected a fraction between 0 and 1"
        )


class DataKind:
    """What every configuration of data declares. A kind from outside also has `prepare()`."""

    kind: ClassVar[str]  # key of `KINDS`; for a kind from outside, `module:CLASS`
    has_text: ClassVar[bool] = True  # whether a tokenizer encodes the data
    path: str

    @property
    def origin(self) -> str:
        """Where the data is read from, for messages and descriptions."""
        return self.path

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

    # embedded (CPython's language reference), stdlib (its standard library's source), files, tfds:
    # the readers of lm_jax.data.readers.READERS, or one from outside
    source: str = "embedded"
    path: str = ""  # files: a file, a directory or a glob; tfds: the name of a data set
    # tfds: the feature that holds the text; "": the only text feature. files: the field of JSONL or
    # the column of CSV; "": `text`
    text_feature: str = ""
    split: str = "documents"  # documents (by a hash of each), tail (the end of each document)
    validation_fraction: float = 0.1
    drop_repeated_paragraphs: bool = True  # keep the first: splits must not share them
    cache_directory: str = ""  # "": $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)

    @property
    def expected_sizes(self) -> dict[str, int]:
        """The tokenizer's maximum vocabulary size."""
        return {"vocab_size": self.tokenizer.expected_vocab_size}

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        _check_choice("source", self.source, readers.READERS)
        _check_choice("split", self.split, SPLITS)
        self.tokenizer.validate()
        if self.source in readers.READERS_OF_PATHS and not self.path:
            raise UserError(f"data.source={self.source} needs data.path: what should be read?")
        if self.source in readers.READERS_WITHOUT_PATH and self.path:
            raise UserError(
                f"data.path {self.path!r} has no effect on data.source={self.source}; "
                "set data.source=files or data.source=tfds"
            )
        _check_fraction(self.validation_fraction)


@dataclasses.dataclass
class LabelledTextConfig(DataKind):
    """Texts with a label each: `label<TAB>text`, JSONL or CSV of `label` and `text`, or tfds."""

    kind: ClassVar[str] = "labelled_text"

    source: str = "files"  # files, tfds
    path: str = ""  # files: a file, a directory or a glob; tfds: the name of a data set
    validation_path: str = ""  # files: held-out texts; "": a hash of each text decides
    validation_fraction: float = 0.1  # unless the source holds out a split itself
    cache_directory: str = ""  # "": $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data
    tokenizer: TokenizerConfig = dataclasses.field(
        default_factory=lambda: TokenizerConfig(kind="word", vocab_size=20_000, lowercase=True)
    )

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        _check_choice("source", self.source, labelled_text.READERS)
        self.tokenizer.validate()
        if self.source in labelled_text.READERS and not self.path:
            raise UserError(f"data.source={self.source} needs data.path: what should be read?")
        _check_fraction(self.validation_fraction)


@dataclasses.dataclass
class ImageConfig(DataKind):
    """Images with a label each; pixels are numbers from 0 to 1."""

    kind: ClassVar[str] = "images"
    has_text: ClassVar[bool] = False

    source: str = "digits"  # digits (of scikit-learn), idx, npz, tfds, and_gate (four points)
    path: str = ""  # idx: a directory; npz: a file; tfds: the name of a data set
    validation_fraction: float = 0.1  # of training images, unless there is a test split
    label_names: str = ""  # of the classes, comma-separated; "": those of the data set, or numbers
    crop_padding: int = 0  # augmentation: pixels of zeros on each side, then a random crop
    flip: bool = False  # augmentation: mirror left to right with probability 1/2
    cache_directory: str = ""  # "": $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        _check_choice("source", self.source, images.READERS)
        if self.source in images.READERS_OF_PATHS and not self.path:
            raise UserError(f"data.source={self.source} needs data.path")
        if self.source in images.READERS_WITHOUT_PATH and self.path:
            raise UserError(f"data.source={self.source} takes no data.path")
        if self.crop_padding < 0:
            raise UserError(f"data.crop_padding is {self.crop_padding}; expected 0 or more")
        _check_fraction(self.validation_fraction)


@dataclasses.dataclass
class SymbolsConfig:
    """Sequences of made-up symbols to copy, reverse or sort."""

    num_symbols: int = 26
    num_training_pairs: int = 50_000
    num_validation_pairs: int = 1_000
    shortest: int = 1
    longest: int = 20
    validation_shortest: int = 0  # 0: as in training
    validation_longest: int = 0  # 0: as in training; longer ones test generalisation
    seed: int = 0

    def validate(self) -> None:
        """Raises UserError for an impossible value."""
        for name, value in vars(self).items():
            least = 0 if name in ("validation_shortest", "validation_longest", "seed") else 1
            if value < least:
                raise UserError(f"data.symbols.{name} is {value}; expected at least {least}")
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

    source: str = "files"  # files, tfds; copy, reverse, sort (of made-up symbols)
    path: str = ""  # files: a file, a directory or a glob; tfds: the name of a translation set
    target_path: str = ""  # files: the targets of the sources in `path`, line by line
    validation_path: str = ""  # files: held-out pairs; "": whole documents, by a hash of each
    validation_target_path: str = ""  # as target_path
    tasks: str = ""  # instead of path: "instruction=path; instruction=path"
    source_language: str = ""  # tfds: the language of the sources; "": the first one
    validation_fraction: float = 0.1
    drop_near_copies: bool = True  # between training and held-out pairs; symbols keep theirs
    longest_characters: int = 0  # drop pairs with a longer side; 0: none
    largest_length_ratio: float = 0.0  # drop pairs with a larger ratio of characters; 0: none
    truncate: bool = False  # cut texts that are longer than the model reads; false: refuse them
    cache_directory: str = ""  # "": $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data
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

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        _check_choice("source", self.source, pair_readers.READERS)
        self.tokenizer.validate()
        self.symbols.validate()
        _check_fraction(self.validation_fraction)
        if self.source in TASKS and self.origin:
            raise UserError(f"data.source={self.source} makes its pairs; it takes no path")
        is_read = self.source in pair_readers.READERS and self.source not in TASKS
        if is_read and bool(self.path) == bool(self.tasks):
            raise UserError(
                f"data.source={self.source} needs either data.path or data.tasks: "
                "what should be read?"
            )
        if self.source == "tfds" and self.tasks:
            raise UserError("data.tasks names files; set data.source=files")
        if self.tasks and (self.target_path or self.validation_path):
            raise UserError(
                "data.tasks names files of pairs, held out by a hash; leave data.target_path and "
                "data.validation_path empty"
            )
        if self.validation_target_path and not self.validation_path:
            raise UserError("data.validation_target_path has no data.validation_path beside it")
        for name in ("longest_characters", "largest_length_ratio"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name} is {getattr(self, name)}; expected 0 or more")


KINDS = {
    config.kind: config
    for config in (DataConfig, LabelledTextConfig, ParallelTextConfig, ImageConfig)
}
