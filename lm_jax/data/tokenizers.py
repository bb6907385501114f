"""Tokenizers: text to token ids and back, trained on a training split or taken from a run.

A kind of tokenizer is a `TokenizerKind`: how its model is trained and how the model is loaded as a
`Codec`. A kind from outside is named `--config.data.tokenizer.kind=my_tokenizer.py:KIND`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from lm_jax.choices import choose
from lm_jax.data.sentencepiece_model import MergedPieces, Pieces, train_pieces
from lm_jax.data.word_vocabulary import load_words, train_words
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.data.config import TokenizerConfig


class Codec(Protocol):
    """A trained model that encodes and decodes."""

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        ...

    @property
    def end_of_document(self) -> int:
        """The id that separates documents; no text is encoded with it."""
        ...

    def encode(self, texts: Sequence[str]) -> Sequence[Sequence[int] | np.ndarray]:
        """Returns the ids of each text."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids below `vocab_size`, none of which ends a document."""
        ...

    def outer_characters(self, index: int) -> tuple[str, str]:
        """Returns the first and the last character of a token; a byte of a longer one is "x"."""
        ...


class TokenizerKind(NamedTuple):
    """How tokenizers of one kind are trained, loaded and saved."""

    train: Callable[[TokenizerConfig, list[str]], bytes]  # (configuration, texts) -> model
    load: Callable[[bytes], Codec]
    model_file: str
    lossless: bool  # whether decoding gives back the exact text
    fixed_size: int = 0  # vocabulary size, where the configuration does not decide it


class Bytes:
    """The codec of UTF-8 bytes: ids 0 to 255, and 256 for the end of a document."""

    vocab_size, end_of_document = 257, 256

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the bytes of each text, uint8."""
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, ids: list[int]) -> str:
        """Returns the text; bytes that are not UTF-8 become U+FFFD."""
        return bytes(ids).decode(errors="replace")

    def outer_characters(self, index: int) -> tuple[str, str]:
        """Returns an ASCII character twice; any other byte is a letter, "x"."""
        return (chr(index), chr(index)) if index < 128 else ("x", "x")


_PIECES = TokenizerKind(train_pieces, Pieces, "sentencepiece.model", lossless=True)
_WORDS = TokenizerKind(train_words, load_words, "words.json", lossless=False)
TOKENIZERS: dict[str, TokenizerKind] = {
    "byte": TokenizerKind(
        lambda config, texts: b"", lambda model: Bytes(), "", True, Bytes.vocab_size
    ),
    "char": _PIECES,
    "bpe": _PIECES._replace(load=MergedPieces),
    "unigram": _PIECES,
    "word": _WORDS,
    "whitespace": _WORDS,
}


def _kind(name: str) -> TokenizerKind:
    return choose(TOKENIZERS, name, "data.tokenizer.kind")


class Tokenizer(NamedTuple):
    """Text to token ids and back; ids of `encode` never include `end_of_document`."""

    kind: str
    model: bytes  # what training returned; empty for byte
    codec: Codec

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self.codec.vocab_size

    @property
    def end_of_document(self) -> int:
        """The id that separates documents."""
        return self.codec.end_of_document

    @property
    def lossless(self) -> bool:
        """Whether `decode` gives back the exact text."""
        return _kind(self.kind).lossless

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of a text, int32 [T].

        Raises:
          UserError: the text cannot be encoded as UTF-8, or holds a word that is not known.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the tokens of each text, int32 [T]; long lists may be encoded in parallel.

        Raises:
          UserError: as `encode`.
        """
        for text in texts:
            _check_utf8(text)
        return [np.array(ids, np.int32) for ids in self.codec.encode(texts)]

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of token ids; bytes that are not UTF-8 become U+FFFD.

        Ends of documents are left out, and so are ids from `vocab_size` on: the vocabulary of a
        model may be larger.
        """
        kept = [int(i) for i in ids if i != self.end_of_document and i < self.vocab_size]
        return self.codec.decode(kept)

    def save(self, directory: Path) -> None:
        """Writes what `load_tokenizer` reads."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.model:
            (directory / _kind(self.kind).model_file).write_bytes(self.model)
        (directory / "tokenizer.json").write_text(json.dumps({"kind": self.kind}) + "\n")


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of the text is the lone surrogate "
            f"{text[error.start]!a}, which is not Unicode text; remove it"
        ) from None


def _load(kind: str, model: bytes) -> Tokenizer:
    return Tokenizer(kind, model, _kind(kind).load(model))


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Returns the tokenizer saved in a directory.

    Raises:
      UserError: there is none, it cannot be read, or its kind cannot be imported.
    """
    directory = Path(directory)
    unreadable = UserError(f"{directory} holds no tokenizer that can be read")
    try:
        name = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["kind"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise unreadable from None
    file = _kind(name).model_file
    try:
        return _load(name, (directory / file).read_bytes() if file else b"")
    except (FileNotFoundError, ValueError, RuntimeError):  # RuntimeError is sentencepiece's
        raise unreadable from None


def _load_from_run(config: TokenizerConfig) -> Tokenizer:
    """Returns the tokenizer of the run, or of the directory, that `config.path` names."""
    directory = Path(config.path)
    return load_tokenizer(
        directory / "tokenizer" if (directory / "config.json").exists() else directory
    )


def identity(config: TokenizerConfig) -> dict[str, Any]:
    """Returns what decides the tokens of given texts.

    For a tokenizer that is taken from elsewhere, that is its model, not its path.

    Raises:
      UserError: there is none at `config.path`.
    """
    if not config.path:
        left_out = ["path"]
        if config.training_characters == type(config).training_characters:
            left_out.append("training_characters")  # runs made before it existed find their data
        return {name: value for name, value in vars(config).items() if name not in left_out}
    tokenizer = _load_from_run(config)
    return {"kind": tokenizer.kind, "sha256": hashlib.sha256(tokenizer.model).hexdigest()}


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Returns the tokenizer of a configuration, trained on these texts; it depends on nothing else.

    Raises:
      UserError: the texts do not support the vocabulary asked for, or `config.path` holds no
        tokenizer.
    """
    if config.path:
        return _load_from_run(config)
    return _load(config.kind, _kind(config.kind).train(config, list(texts)))
