"""Sentencepiece models with byte fallback and without normalisation: lossless on any text."""

from __future__ import annotations

import io
import re
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.data.tokenizer_config import TokenizerConfig

END_OF_DOCUMENT = "<|endoftext|>"
SPACE_MARK = "\u2581"  # sentencepiece writes spaces so, and would read this character as a space
_WORD = re.compile(" *[^ ]+| +")  # the spaces before a word are its own
_MOST_KNOWN_CHARACTERS = 5_000_000  # about 100 MB with what a dictionary takes
_LONGEST_WORD = 4096  # characters without a space that sentencepiece is trained on at once


class Pieces:
    """The codec of a sentencepiece model."""

    def __init__(self, model: bytes):
        import sentencepiece

        if not model:  # which sentencepiece takes for no model yet
            raise ValueError("it is empty")
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self._processor.get_piece_size()

    @property
    def end_of_document(self) -> int:
        """The id that separates documents."""
        return self._processor.piece_to_id(END_OF_DOCUMENT)

    def encode(self, texts: Sequence[str]) -> Sequence[Sequence[int] | np.ndarray]:
        """Returns the ids of each text; several texts are encoded in parallel."""
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._processor.encode(list(texts), num_threads=-1 if len(texts) > 1 else 1)
        return [
            self._encode_marks(text) if SPACE_MARK in text else ids
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def _encode_marks(self, text: str) -> list[int]:
        """Returns the ids of a text that holds the space mark, which only bytes can spell."""
        mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        first, *rest = text.split(SPACE_MARK)
        ids = self._processor.encode(first)
        for part in rest:
            ids += mark + self._processor.encode(part)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self._processor.decode(ids)

    def outer_characters(self, index: int) -> tuple[str, str]:
        """Returns the first and the last character; one of a space is the space mark."""
        piece = self._processor.id_to_piece(index)
        if not self._processor.is_byte(index):
            return piece[0], piece[-1]
        byte = int(piece[3:5], 16)
        return (chr(byte), chr(byte)) if byte < 128 else ("x", "x")


class MergedPieces(Pieces):
    """The codec of a byte-pair model: it merges each different word once.

    No piece holds a space after another character, so no merge reaches from a word into the spaces
    before the next one: the words of a text can be encoded one by one, and most were seen before.
    """

    def __init__(self, model: bytes):
        super().__init__(model)
        self._known: dict[str, bytes] = {}  # word -> ids, uint32
        self._characters = 0  # of the known words

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, uint32."""
        return [self._encode_words(_WORD.findall(text)) for text in texts]

    def _encode_words(self, words: list[str]) -> np.ndarray:
        if self._characters > _MOST_KNOWN_CHARACTERS:
            self._known.clear()
            self._characters = 0
        new = [word for word in set(words) if word not in self._known]
        self._characters += sum(map(len, new))
        for word, ids in zip(new, self._encode(new), strict=True):
            self._known[word] = array("I", ids).tobytes()
        return np.frombuffer(b"".join(map(self._known.__getitem__, words)), np.uint32)


def train_pieces(config: TokenizerConfig, texts: list[str]) -> bytes:
    """Returns a sentencepiece model of kind char, bpe or unigram, trained on these texts.

    Raises:
      UserError: the texts do not support the vocabulary asked for.
    """
    import sentencepiece

    model = io.BytesIO()
    size = _vocab_size(config, texts)
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
    return model.getvalue()


def _vocab_size(config: TokenizerConfig, texts: list[str]) -> int:
    """Returns the vocabulary size to train, which must hold all bytes and characters.

    A vocabulary of characters may be smaller: it spells the rarest ones in bytes.
    """
    characters = set().union(*texts) - {SPACE_MARK}
    every = 256 + 2 + len(characters)  # bytes, unknown, end of document
    smallest, size = every, config.vocab_size
    if config.kind == "char":
        smallest, size = 256 + 2 + 1, min(config.vocab_size, every)
    if size < smallest:
        raise UserError(
            f"data.tokenizer.vocab_size {config.vocab_size} is too small: 256 bytes, 2 special "
            f"pieces and {smallest - 258} characters of the corpus need at least {smallest}"
        )
    return size


def _sentences(texts: Iterable[str]) -> list[str]:
    """Returns what sentencepiece trains on: the texts, cut where it would fail on them.

    It reads NUL as an end. Only spaces separate its words, so that a list of names or a Japanese
    text is one word, on which the scores of unigram overflow.
    """
    cut = [re.sub(rf"[^ \0]{{{_LONGEST_WORD}}}", r"\g<0>\0", text) for text in texts]
    return [part for text in cut for part in text.split("\0") if part]


def _explain(config: TokenizerConfig, error: str) -> str:
    asked = f"a {config.kind} vocabulary of data.tokenizer.vocab_size={config.vocab_size}"
    largest = re.search(r"value <= (\d+)", error)
    if largest:
        return (
            f"the corpus is too small for {asked}; it supports at most {largest[1]}: set "
            f"data.tokenizer.vocab_size={largest[1]} or less, or data.tokenizer.kind=char"
        )
    return f"sentencepiece cannot train {asked} on this corpus ({' '.join(error.split())[:200]})"
