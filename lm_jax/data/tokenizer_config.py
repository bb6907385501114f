"""The configuration of a tokenizer: trained on the training split, or read from files."""

import dataclasses

from lm_jax.choices import choose
from lm_jax.data.tokenizers import TOKENIZERS, train_tokenizer
from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.whole_numbers import whole_number


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
    found = choose(TOKENIZERS, kind, f"the tokenizer {name!r}")
    vocab_size = whole_number(given)
    if found.read and (not given or vocab_size is not None):
        raise UserError(
            f"the tokenizer {name!r} is read from files; give {kind}:PATH, a file or a directory"
        )
    config = TokenizerConfig(kind)
    if vocab_size is not None:
        config.vocab_size = vocab_size
    else:
        config.path = given
    config.validate()
    if not config.vocab_size:
        raise UserError(f"the tokenizer {name!r} has no ids; give a vocabulary of at least 1")
    return config
