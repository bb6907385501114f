"""A vocabulary of whole words: readable counts and embeddings, at the price of unknown words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lm_jax.data.sentencepiece_model import END_OF_DOCUMENT
from lm_jax.errors import UserError
from lm_jax.json_values import fault_of, parse

if TYPE_CHECKING:
    from lm_jax.data.tokenizer_config import TokenizerConfig

UNKNOWN = "<unk>"
_PATTERNS = {
    "word": re.compile(r"\n|\w+(?:['\u2019]\w+)*|[^\w\s]"),
    "whitespace": re.compile(r"\n|\S+"),
}


class Words(NamedTuple):
    """The codec of a vocabulary of words; id 0 ends a document, frequent words come first."""

    kind: str
    lowercase: bool
    unknown: int | None  # the id of words outside the vocabulary, if there is one
    vocabulary: list[str]
    ids: dict[str, int]  # without the end of a document, which no text spells

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return len(self.vocabulary)

    @property
    def end_of_document(self) -> int:
        """The id that separates documents."""
        return 0

    def split(self, text: str) -> list[str]:
        """Returns the words of a text."""
        return _split(text, self.kind, self.lowercase)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of the words of each text.

        Raises:
          UserError: a word is not in the vocabulary, which has no <unk>.
        """
        unknown = self.unknown
        encoded = [[self.ids.get(word, unknown) for word in self.split(text)] for text in texts]
        if unknown is None:
            for text, ids in zip(texts, encoded, strict=True):
                if None in ids:
                    word = self.split(text)[ids.index(None)]
                    raise UserError(
                        f"the word {word!r} is not in the vocabulary of {len(self.ids)}, which has "
                        "no <unk>; set data.tokenizer.unknown=true or a larger vocabulary"
                    )
        return encoded  # type: ignore[return-value]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Returns the first character of each word and the one after its last."""
        lower = text.lower() if self.lowercase else text
        same = len(lower) == len(text)  # the lower case of a few letters is longer
        return [found.span() for found in _PATTERNS[self.kind].finditer(lower if same else text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the words with single spaces between them, but none at line ends."""
        joined = " ".join(self.vocabulary[index] for index in ids)
        return re.sub(r" ?\n ?", "\n", joined)

    def outer_characters(self, index: int) -> tuple[str, str]:
        """Returns the first and the last character of a word."""
        return self.vocabulary[index][0], self.vocabulary[index][-1]


def load_words(model: bytes) -> Words:
    """Returns the vocabulary that `train_words` serialized.

    Raises:
      ValueError: it is damaged.
    """
    parts = parse(model)
    if fault := fault_of(parts, tuple[str, bool, int | None, list[str]]):
        raise ValueError(fault)
    kind, lowercase, unknown, vocabulary = parts
    if kind not in _PATTERNS or not all(vocabulary) or len(set(vocabulary)) < len(vocabulary):
        raise ValueError("it is no kind of words with different words")
    if not vocabulary or unknown not in (None, *range(1, len(vocabulary))):
        raise ValueError(f"the id of unknown words is {unknown}, which is no word")
    return Words(
        kind, lowercase, unknown, vocabulary, {word: i for i, word in enumerate(vocabulary) if i}
    )


def train_words(config: TokenizerConfig, texts: Sequence[str]) -> bytes:
    """Returns the most frequent words as JSON; words of equal count are in alphabetical order.

    Raises:
      UserError: the vocabulary has no room for a word.
    """
    special = [END_OF_DOCUMENT, UNKNOWN] if config.unknown else [END_OF_DOCUMENT]
    max_words = config.vocab_size - len(special)
    if max_words < 1:
        raise UserError(
            f"data.tokenizer.vocab_size {config.vocab_size} has no room for a word beside "
            f"{' and '.join(special)}"
        )
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_split(text, config.kind, config.lowercase))
    for word in special:
        counts.pop(word, None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [word for word, count in ordered[:max_words] if count >= config.minimum_count]
    unknown = special.index(UNKNOWN) if config.unknown else None
    return json.dumps([config.kind, config.lowercase, unknown, special + kept]).encode()


def _split(text: str, kind: str, lowercase: bool) -> list[str]:
    return _PATTERNS[kind].findall(text.lower() if lowercase else text)
