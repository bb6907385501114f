"""What a configuration can say about data."""

import dataclasses

_CHOICES = {
    "source": ("embedded", "files", "tfds"),
    "split": ("documents", "tail"),
}
_TOKENIZERS = ("byte", "char", "bpe", "unigram")


@dataclasses.dataclass
class TokenizerConfig:
    """A tokenizer, trained on the training split; all are lossless on any Unicode text."""

    kind: str = "bpe"  # byte (UTF-8, nothing to train), char, bpe, unigram
    vocab_size: int = 2048  # with the 256 fallback bytes; an upper bound for char, unused by byte

    @property
    def expected_vocab_size(self) -> int:
        """The size before training: exact but for `char`, whose corpus may have fewer."""
        return 257 if self.kind == "byte" else self.vocab_size


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
        for field, choices in _CHOICES.items():
            if (given := getattr(self, field)) not in choices:
                raise ValueError(f"data.{field} is {given!r}; expected one of {', '.join(choices)}")
        if self.tokenizer.kind not in _TOKENIZERS:
            raise ValueError(
                f"data.tokenizer.kind is {self.tokenizer.kind!r}; "
                f"expected one of {', '.join(_TOKENIZERS)}"
            )
        if self.source != "embedded" and not self.path:
            raise ValueError(f"data.source={self.source} needs data.path: what should be read?")
        if self.source == "embedded" and self.path:
            raise ValueError(
                f"data.path {self.path!r} has no effect on the embedded corpus; "
                "set data.source=files or data.source=tfds"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"data.validation_fraction is {self.validation_fraction}; "
                "expected a fraction between 0 and 1"
            )
