"""A vocabulary of whole words: readable counts and embeddings, at the price of unknown words."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lm_jax.data.config import TokenizerConfig
from lm_jax.errors import UserError

UNKNOWN = "<unk>"
_PATTERNS = {
    "word": re.compile(r"\n|\w+(?:['\u2019]\w+)*|[^\w\s]"),
    "whitespace": re.compile(r"\n|\S+"),
}


class Words(NamedTuple):
    """Text to word ids and back; id 0 ends a document, and the most frequent words come first."""

    kind: str
    lowercase: bool
    unknown: int | None  # the id of words outside the vocabulary, if there is one
    vocabulary: list[str]
    ids: dict[str, int]  # of all but the end of a document, which no text spells

    def split(self, text: str) -> list[str]:
        """The words of a text."""
        return _split(text, self.kind, self.lowercase)

    def encode(self, texts: Sequence[str], num_threads: int = 1) -> list[list[int]]:
        """The ids of the words of each text.

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

    def decode(self, ids: Iterable[int]) -> str:
        """The words with single spaces between them, but none at the ends of lines."""
        joined = " ".join(self.vocabulary[index] for index in ids)
        return re.sub(r" ?\n ?", "\n", joined)

    def serialized(self) -> bytes:
        """What `load_words` reads."""
        return json.dumps([self.kind, self.lowercase, self.unknown, self.vocabulary]).encode()


def load_words(model: bytes) -> Words:
    """The vocabulary that was serialized."""
    kind, lowercase, unknown, vocabulary = json.loads(model)
    return Words(
        kind, lowercase, unknown, vocabulary, {word: i for i, word in enumerate(vocabulary) if i}
    )


def train_words(config: TokenizerConfig, texts: Sequence[str], end: str) -> bytes:
    """The serialized vocabulary of the most frequent words; equal counts stand in word order.

    Raises:
      UserError: the vocabulary has no room for a word.
    """
    special = [end, UNKNOWN] if config.unknown else [end]
    room = config.vocab_size - len(special)
    if room < 1:
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
    kept = [word for word, count in ordered[:room] if count >= config.minimum_count]
    unknown = special.index(UNKNOWN) if config.unknown else None
    return json.dumps([config.kind, config.lowercase, unknown, special + kept]).encode()


def _split(text: str, kind: str, lowercase: bool) -> list[str]:
    return _PATTERNS[kind].findall(text.lower() if lowercase else text)
