"""Tokenizers: bytes, sentencepiece models, words.

Sentencepiece models have byte fallback and no normalisation at all: like bytes, they give back the
exact text, whatever it is.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.config import TokenizerConfig
from lm_jax.data.word_vocabulary import load_words, train_words
from lm_jax.errors import UserError

END_OF_DOCUMENT = "<|endoftext|>"
_LONGEST_WORD = 4096  # characters without a space that sentencepiece is trained on at once
_SPACE_MARK = "\u2581"  # sentencepiece writes spaces so, and would read this character as a space


class Tokenizer(NamedTuple):
    """Text to token ids and back; ids of `encode` never include `end_of_document`."""

    kind: str
    vocab_size: int
    end_of_document: int
    model: bytes  # the sentencepiece model, or the vocabulary of words; empty for byte
    processor: Any

    @property
    def lossless(self) -> bool:
        """Whether `decode` gives back the exact text."""
        return TokenizerConfig(self.kind).lossless

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int32. Raises UserError if it is not encodable as UTF-8."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, int32; long lists are encoded in parallel."""
        for text in texts:
            _check_utf8(text)
        if self.processor is None:
            return [np.frombuffer(t.encode(), np.uint8).astype(np.int32) for t in texts]
        marks = self.lossless  # sentencepiece's
        encoded = self.processor.encode(list(texts), num_threads=-1 if len(texts) > 1 else 1)
        return [
            np.array(self._encode_marks(text) if marks and _SPACE_MARK in text else ids, np.int32)
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def _encode_marks(self, text: str) -> list[int]:
        """The ids of a text that holds the space mark itself, which only bytes can spell."""
        mark = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()]
        first, *rest = text.split(_SPACE_MARK)
        ids = self.processor.encode(first)
        for part in rest:
            ids += mark + self.processor.encode(part)
        return ids

    def decode(self, ids: np.ndarray) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD.

        Ends are left out, and so are ids from `vocab_size` on: a model's vocabulary may be larger.
        """
        kept = [int(i) for i in ids if i != self.end_of_document and i < self.vocab_size]
        if self.processor is None:
            return bytes(kept).decode(errors="replace")
        return self.processor.decode(kept)

    def save(self, directory: Path) -> None:
        """Writes what `load_tokenizer` reads."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.model:
            (directory / _model_file(self.kind)).write_bytes(self.model)
        (directory / "tokenizer.json").write_text(json.dumps({"kind": self.kind}) + "\n")


class WordBoundaries(NamedTuple):
    """Which tokens begin a word, and which have one begin after them; both bool [V]."""

    opens: np.ndarray
    closes: np.ndarray

    def starts(self, tokens: np.ndarray) -> np.ndarray:
        """Where words begin in a text [T]: at white space, at signs and after them."""
        after = np.concatenate([[True], self.closes[tokens[:-1]]])
        return self.opens[tokens] | after


def word_boundaries(tokenizer: Tokenizer) -> WordBoundaries:
    """Where the words of a tokenizer's texts begin; a space belongs to the word after it."""
    if not tokenizer.lossless:
        return WordBoundaries(*np.ones((2, tokenizer.vocab_size), bool))
    texts = [_first_and_last(tokenizer, index) for index in range(tokenizer.vocab_size)]
    closes = [not last.isalnum() and last not in f" {_SPACE_MARK}" for _, last in texts]
    return WordBoundaries(np.array([not first.isalnum() for first, _ in texts]), np.array(closes))


def _first_and_last(tokenizer: Tokenizer, index: int) -> tuple[str, str]:
    """The outer characters of a token; a byte that begins no ASCII sign counts as a letter."""
    if tokenizer.processor is None:
        byte = index
    elif tokenizer.processor.is_byte(index):
        byte = int(tokenizer.processor.id_to_piece(index)[3:5], 16)
    else:
        piece = tokenizer.processor.id_to_piece(index)
        return piece[0], piece[-1]
    return (chr(byte), chr(byte)) if byte < 128 else ("x", "x")


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of the text is the lone surrogate "
            f"{text[error.start]!a}, which is not Unicode text; remove it"
        ) from None


def _model_file(kind: str) -> str:
    return "sentencepiece.model" if TokenizerConfig(kind).lossless else "words.json"


def _from_model(kind: str, model: bytes) -> Tokenizer:
    if kind == "byte":
        return Tokenizer("byte", 257, 256, b"", None)
    if not TokenizerConfig(kind).lossless:
        words = load_words(model)
        return Tokenizer(kind, len(words.vocabulary), 0, model, words)
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    end = processor.piece_to_id(END_OF_DOCUMENT)
    return Tokenizer(kind, processor.get_piece_size(), end, model, processor)


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer saved in a directory. Raises UserError if there is none."""
    try:
        kind = json.loads((directory / "tokenizer.json").read_text())["kind"]
        model = b"" if kind == "byte" else (directory / _model_file(kind)).read_bytes()
        return _from_model(kind, model)
    except (FileNotFoundError, ValueError, KeyError, RuntimeError):  # sentencepiece's
        raise UserError(f"{directory} holds no tokenizer that can be read") from None


def _load_from_run(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer of the run that `config.path` names, or that a directory of its own holds."""
    place = Path(config.path)
    return load_tokenizer(place / "tokenizer" if (place / "config.json").exists() else place)


def identity(config: TokenizerConfig) -> dict[str, Any]:
    """What decides the tokens of given texts: of a tokenizer that is taken, not where it lies.

    Raises:
      UserError: there is none at `config.path`.
    """
    if not config.path:
        return {name: value for name, value in vars(config).items() if name != "path"}
    tokenizer = _load_from_run(config)
    return {"kind": tokenizer.kind, "sha256": hashlib.sha256(tokenizer.model).hexdigest()}


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of a configuration, trained on these texts; the same texts give the same one.

    Raises:
      UserError: the texts do not support the vocabulary asked for, or there is none at the path
        that it should be taken from.
    """
    if config.path:
        return _load_from_run(config)
    if config.kind == "byte":
        return _from_model("byte", b"")
    if not config.lossless:
        return _from_model(config.kind, train_words(config, list(texts), END_OF_DOCUMENT))
    import sentencepiece

    texts = list(texts)
    characters = set().union(*texts) - {_SPACE_MARK}
    every = 256 + 2 + len(characters)  # bytes, unknown, end of document
    # Characters too rare for a vocabulary of `char` are spelled in bytes; the others need all.
    smallest, size = every, config.vocab_size
    if config.kind == "char":
        smallest, size = 256 + 2 + 1, min(config.vocab_size, every)
    if size < smallest:
        raise UserError(
            f"data.tokenizer.vocab_size {config.vocab_size} is too small: 256 bytes, 2 special "
            f"pieces and {smallest - 258} characters of the corpus need at least {smallest}"
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_sentences(texts)),
            model_writer=model,
            model_type=config.kind,
            vocab_size=size,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=1 << 30,
            unk_id=0,
            eos_id=1,
            eos_piece=END_OF_DOCUMENT,
            bos_id=-1,
            pad_id=-1,
            num_threads=1,  # more threads may order ties differently
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_explain(config, str(error))) from None
    return _from_model(config.kind, model.getvalue())


def _sentences(texts: Iterable[str]) -> list[str]:
    """What sentencepiece trains on: the texts, cut where it would fail on them.

    It reads NUL as an end; and as only spaces part its words, a list of names or a Japanese text
    is one word, of which unigram's scores overflow.
    """
    cut = [re.sub(rf"[^ \0]{{{_LONGEST_WORD}}}", r"\g<0>\0", text) for text in texts]
    return [part for text in cut for part in text.split("\0") if part]


def _explain(config: TokenizerConfig, error: str) -> str:
    asked = f"a {config.kind} vocabulary of data.tokenizer.vocab_size={config.vocab_size}"
    largest = re.search(r"value <= (\d+)", error)
    if largest:
        return f"the corpus is too small for {asked}; it supports at most {largest[1]}"
    return f"sentencepiece cannot train {asked} on this corpus ({' '.join(error.split())[:200]})"
