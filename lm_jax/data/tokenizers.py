"""Tokenizers: text to token ids and back, trained on a training split or taken from files.

A kind of tokenizer is a `TokenizerKind`: how its model is trained or read, and how it is loaded as
a `Codec`. A kind from outside is named `--config.data.tokenizer.kind=my_tokenizer.py:KIND`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

import numpy as np

from lm_jax import trusted_code
from lm_jax.atomic_files import make_directory, write_bytes
from lm_jax.choices import choose
from lm_jax.code_names import absolute
from lm_jax.data.sentencepiece_model import MergedPieces, Pieces, train_pieces
from lm_jax.data.tokenizer_files import (
    HuggingFace,
    HuggingFaceSpecial,
    Ranks,
    SavedPieces,
    kind_of_files,
    read_hugging_face,
    read_sentencepiece,
    read_tiktoken,
)
from lm_jax.data.word_vocabulary import Words, load_words, train_words
from lm_jax.errors import UserError
from lm_jax.json_values import read_as, read_object

if TYPE_CHECKING:
    from lm_jax.data.tokenizer_config import TokenizerConfig


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
    """How tokenizers of one kind are trained or read, loaded and saved."""

    train: Callable[[TokenizerConfig, list[str]], bytes]  # (configuration, texts) -> model
    load: Callable[[bytes], Codec]
    model_file: str
    lossless: bool | None  # whether decoding gives back the exact text; None: it is measured
    fixed_size: int = 0  # vocabulary size, where the configuration does not decide it
    read: Callable[[TokenizerConfig], bytes] | None = None  # from files of others at `path`
    encodes_in_pieces: bool = True
    """Whether a text may be cut before a space after another character: no token spans it."""

    tokens_are_words: bool = False
    load_special: Callable[[bytes], Codec] | None = None
    """As `load`, for texts that spell special tokens: chats. None: there are no such tokens."""

    spans: Callable[[Any, str], list[tuple[int, int]]] = lambda codec, text: []
    """(codec, text) -> first character of each token and the one after its last.

    For kinds that lose text; [] where decoding tells."""


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
_WORDS = TokenizerKind(
    train_words,
    load_words,
    "words.json",
    lossless=False,
    tokens_are_words=True,
    spans=Words.spans,
)


def _cannot_train(config: TokenizerConfig, texts: list[str]) -> bytes:
    raise UserError(
        f"data.tokenizer.kind={config.kind} reads the files of a tokenizer; set data.tokenizer.path"
    )


_FILES = TokenizerKind(_cannot_train, HuggingFace, "", lossless=None, encodes_in_pieces=False)
TOKENIZERS: dict[str, TokenizerKind] = {
    "byte": TokenizerKind(
        lambda config, texts: b"", lambda model: Bytes(), "", True, Bytes.vocab_size
    ),
    "char": _PIECES,
    "bpe": _PIECES._replace(load=MergedPieces),
    "unigram": _PIECES,
    "word": _WORDS,
    "whitespace": _WORDS,
    "huggingface": _FILES._replace(
        model_file="huggingface.json",
        read=read_hugging_face,
        spans=HuggingFace.spans,
        load_special=HuggingFaceSpecial,
    ),
    "sentencepiece": _FILES._replace(
        load=SavedPieces, model_file="sentencepiece.model", read=read_sentencepiece
    ),
    "tiktoken": _FILES._replace(load=Ranks, model_file="ranks.tiktoken", read=read_tiktoken),
}
_LONGEST_FAULT = 200  # characters
AWKWARD_TEXTS = (
    "Hello world",
    " a  b   ",
    "a\n\n b\r\n\tc\n",
    "They don't, 'we' do . Hyphen-ated; 1234567890 3.14",
    "na\u00efve cafe\u0301 A\u030a",  # composed and combining marks
    "\ufb01 \uff21\uff22 \uff76 \u00bd",  # a ligature, wide and narrow letters, a fraction
    "\u65e5\u672c\u8a9e\u3068\u0440\u0443\u0441\u0441\u043a\u0438\u0439\u3002",
    "\U0001f642\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "a\0b\x7f",
    "\u00a0\u3000\u2003a\ufeff",  # spaces that are no ASCII
    "x" * 300,
)


def _kind(name: str) -> TokenizerKind:
    return choose(TOKENIZERS, name, "data.tokenizer.kind")


class Tokenizer(NamedTuple):
    """Text to token ids and back; ids of `encode` never include `end_of_document`."""

    kind: str
    model: bytes  # what training or reading returned; empty for byte
    codec: Codec
    lossless: bool  # whether `decode` gives back the exact text
    opening: int | None = None  # the id of `beginning`, where it is not `end_of_document`

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self.codec.vocab_size

    @property
    def end_of_document(self) -> int:
        """The id that separates documents."""
        return self.codec.end_of_document

    @property
    def beginning(self) -> int:
        """The id that a model reads before a text.

        Models that are trained here read there the end of the document before."""
        return self.end_of_document if self.opening is None else self.opening

    @property
    def encodes_in_pieces(self) -> bool:
        """Whether a text may be cut before a space after another character."""
        return _kind(self.kind).encodes_in_pieces

    @property
    def tokens_are_words(self) -> bool:
        """Whether every token but the end of a document is a word."""
        return _kind(self.kind).tokens_are_words

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

    def reading_special_tokens(self) -> Tokenizer | None:
        """Returns a tokenizer that reads special tokens where a text spells them; None: none is."""
        load = _kind(self.kind).load_special
        return None if load is None else self._replace(codec=load(self.model))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Returns what the kind knows of where tokens stand; [] if nothing: `token_offsets`."""
        return _kind(self.kind).spans(self.codec, text)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of token ids; bytes that are not UTF-8 become U+FFFD.

        Ends of documents are left out, and so are ids from `vocab_size` on: the vocabulary of a
        model may be larger.
        """
        kept = [int(i) for i in ids if i != self.end_of_document and i < self.vocab_size]
        return self.codec.decode(kept)

    def save(self, directory: Path) -> None:
        """Writes what `load_tokenizer` reads."""
        make_directory(directory)
        if self.model:
            write_bytes(directory / _kind(self.kind).model_file, self.model)
        opening = {} if self.opening is None else {"beginning": self.opening}
        described = {"kind": absolute(self.kind), **opening}
        trusted_code.remember(described)
        write_bytes(directory / "tokenizer.json", f"{json.dumps(described)}\n".encode())


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of the text is the lone surrogate "
            f"{text[error.start]!a}, which is not Unicode text; remove it"
        ) from None


def _load(kind: str, model: bytes) -> Tokenizer:
    codec, lossless = _kind(kind).load(model), _kind(kind).lossless
    return Tokenizer(
        kind, model, codec, _gives_back_awkward_texts(codec) if lossless is None else lossless
    )


def _gives_back_awkward_texts(codec: Codec) -> bool:
    try:
        encoded = codec.encode(AWKWARD_TEXTS)
        decoded = [codec.decode([int(index) for index in ids]) for ids in encoded]
    except UserError:  # a text that it cannot encode or decode
        return False
    return decoded == list(AWKWARD_TEXTS)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Returns the tokenizer saved in a directory.

    Raises:
      UserError: there is none, it cannot be read, or its kind cannot be imported.
    """
    directory = Path(directory)
    unreadable = f"{directory} holds no tokenizer that can be read"
    try:
        described = read_as(directory / "tokenizer.json", _Described)
        name, opening = described.get("kind", ""), described.get("beginning")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(unreadable) from None
    except UserError as error:
        raise UserError(f"{unreadable}: {error}") from None
    file = _kind(name).model_file
    try:
        found = _load(name, (directory / file).read_bytes() if file else b"")
    except FileNotFoundError:
        raise UserError(f"{unreadable}: there is no {file}") from None
    except (ValueError, RuntimeError) as error:  # RuntimeError is sentencepiece's
        reason = " ".join(str(error).split())[:_LONGEST_FAULT]
        raise UserError(f"{unreadable}: {file} is damaged ({reason}); restore it") from None
    if opening is not None and opening not in range(found.vocab_size):
        raise UserError(
            f"{unreadable}: beginning is {opening} in tokenizer.json; expected an id below "
            f"{found.vocab_size}"
        )
    return found._replace(opening=opening)


class _Described(TypedDict, total=False):
    """The `tokenizer.json` of a tokenizer that was saved here; `beginning` may be absent."""

    kind: str
    beginning: int | None


def _load_from_path(config: TokenizerConfig) -> Tokenizer:
    """Returns the tokenizer of the run, of the directory or of the files that `path` names.

    It is for training here, where the end of the document before opens each text.
    """
    return _read_from_path(config)._replace(opening=None)


def _read_from_path(config: TokenizerConfig) -> Tokenizer:
    path, kind = Path(config.path), _kind(config.kind)
    if (path / "tokenizer" / "tokenizer.json").exists():
        return load_tokenizer(path / "tokenizer")
    if kind.read and not _is_saved_here(path):
        return _load(config.kind, kind.read(config))
    if not _is_saved_here(path) and (other := kind_of_files(path)):
        raise UserError(
            f"data.tokenizer.path {path} is no run; for the tokenizer in this place, set "
            f"data.tokenizer.kind={other}"
        )
    return load_tokenizer(path)


def _is_saved_here(directory: Path) -> bool:
    """Returns whether `Tokenizer.save` wrote the directory; others have a tokenizer.json."""
    try:
        found = set(read_object(directory / "tokenizer.json"))
    except (OSError, UserError):
        return False
    return found - {"beginning"} == {"kind"}


def identity(config: TokenizerConfig) -> dict[str, Any]:
    """Returns what decides the tokens of given texts.

    For a tokenizer that is taken from elsewhere, that is its model, not its path.

    Raises:
      UserError: there is none at `config.path`.
    """
    if not config.path:
        left_out = ["path", "end_of_document"]
        if config.training_characters == type(config).training_characters:
            left_out.append("training_characters")  # runs made before it existed find their data
        return {name: value for name, value in vars(config).items() if name not in left_out}
    tokenizer = _load_from_path(config)
    return {"kind": tokenizer.kind, "sha256": hashlib.sha256(tokenizer.model).hexdigest()}


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Returns the tokenizer of a configuration, trained on these texts; it depends on nothing else.

    Raises:
      UserError: the texts do not support the vocabulary asked for, or `config.path` holds no
        tokenizer.
    """
    if config.path:
        return _load_from_path(config)
    return _load(config.kind, _kind(config.kind).train(config, list(texts)))
