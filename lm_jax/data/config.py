"""What a configuration can say about data."""

import dataclasses

_TOKENIZERS = ("byte", "char", "bpe", "unigram", "word", "whitespace")


@dataclasses.dataclass
class TokenizerConfig:
    """A tokenizer, trained on the training split.

    `byte` (UTF-8, nothing to train), `char`, `bpe` and `unigram` are lossless on any Unicode text.
    `word` (runs of letters and digits, single other signs) and `whitespace` (runs of anything but
    white space) lose spaces and unknown words; a line's end is a word of its own.
    """

    kind: str = "bpe"  # byte, char, bpe, unigram, word, whitespace
    vocab_size: int = 2048  # an upper bound for char, word and whitespace, unused by byte
    lowercase: bool = False  # word, whitespace
    minimum_count: int = 1  # word, whitespace: rarer words of the training split are unknown
    unknown: bool = True  # word, whitespace: whether there is an <unk> for them, or an error

    @property
    def expected_vocab_size(self) -> int:
        """The size before training: exact for byte, bpe and unigram, an upper bound otherwise."""
        return 257 if self.kind == "byte" else self.vocab_size

    @property
    def lossless(self) -> bool:
        """Whether the exact text can be had back, so that bits per character mean something."""
        return self.kind not in ("word", "whitespace")

    def validate(self) -> None:
        """Raises ValueError for an unknown kind."""
        _check_choice("tokenizer.kind", self.kind, _TOKENIZERS)


def _check_choice(field: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise ValueError(f"data.{field} is {given!r}; expected one of {', '.join(choices)}")


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(
            f"data.validation_fraction is {fraction}; expected a fraction between 0 and 1"
        )


@dataclasses.dataclass
class DataConfig:
    """Where documents come from, how they are split, and what turns them into tokens."""

    source: str = "embedded"  # embedded (CPython's language reference), files, tfds
    path: str = ""  # files: a file, a directory or a glob; tfds: the name of a data set
    text_feature: str = ""  # tfds: the feature that holds the text; "": the only text feature
    split: str = "documents"  # documents (by a hash of each), tail (the end of each document)
    validation_fraction: float = 0.1
    drop_repeated_paragraphs: bool = True  # keep the first: a split must not share them
    cache_directory: str = ""  # "": $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)

    def validate(self) -> None:
        """Raises ValueError for an unknown choice or an impossible value."""
        _check_choice("source", self.source, ("embedded", "files", "tfds"))
        _check_choice("split", self.split, ("documents", "tail"))
        self.tokenizer.validate()
        if self.source != "embedded" and not self.path:
            raise ValueError(f"data.source={self.source} needs data.path: what should be read?")
        if self.source == "embedded" and self.path:
            raise ValueError(
                f"data.path {self.path!r} has no effect on the embedded corpus; "
                "set data.source=files or data.source=tfds"
            )
        _check_fraction(self.validation_fraction)


@dataclasses.dataclass
class LabelledTextConfig:
    """Texts with a label each: lines of `label<TAB>text`, JSONL of `label` and `text`, or tfds."""

    source: str = "files"  # files, tfds
    path: str = ""  # files: a file, a directory or a glob; tfds: the name of a data set
    validation_path: str = ""  # files: held-out texts; "": a hash of each text decides
    validation_fraction: float = 0.1  # where nothing is held out already
    tokenizer: TokenizerConfig = dataclasses.field(
        default_factory=lambda: TokenizerConfig(kind="word", vocab_size=20_000, lowercase=True)
    )

    def validate(self) -> None:
        """Raises ValueError for an unknown choice or an impossible value."""
        _check_choice("source", self.source, ("files", "tfds"))
        self.tokenizer.validate()
        if not self.path:
            raise ValueError(f"data.source={self.source} needs data.path: what should be read?")
        _check_fraction(self.validation_fraction)


@dataclasses.dataclass
class ImageConfig:
    """Images with a label each; pixels are numbers from 0 to 1."""

    source: str = "digits"  # digits (scikit-learn's), idx, npz, tfds, and_gate (four points)
    path: str = ""  # idx: a directory; npz: a file; tfds: the name of a data set
    validation_fraction: float = 0.1  # of the training images, where the data set has no test split
    label_names: str = ""  # of the classes in order, comma-separated; "": the data set's or numbers
    crop_padding: int = 0  # augmentation: pad by so many pixels, then crop at random
    flip: bool = False  # augmentation: left to right, every other time

    def validate(self) -> None:
        """Raises ValueError for an unknown choice or an impossible value."""
        _check_choice("source", self.source, ("digits", "idx", "npz", "tfds", "and_gate"))
        if (self.source in ("idx", "npz", "tfds")) != bool(self.path):
            needs = "needs data.path" if not self.path else "takes no data.path"
            raise ValueError(f"data.source={self.source} {needs}")
        if self.crop_padding < 0:
            raise ValueError(f"data.crop_padding is {self.crop_padding}; expected 0 or more")
        _check_fraction(self.validation_fraction)


KINDS = {"text": DataConfig, "labelled_text": LabelledTextConfig, "images": ImageConfig}
