"""What counts as a word in each language, for datatrove's blocks.

Words of English are separated by white space, as the rules of Gopher count them. Japanese has no
spaces: a run of one script stands for a word, which keeps n-grams about as long as in English.
"""

import re

from datatrove.utils.word_tokenizers import WordTokenizer

_SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]+[\"'”’」』)）]*\s*|[^.!?。！？\n]+$")
_RUN_OF_ONE_SCRIPT = re.compile(
    r"[぀-ゟ]+|[ァ-ヿー]+|[㐀-鿿々〆]+|[A-Za-z0-9]+|[^\s぀-ヿ㐀-鿿A-Za-z0-9]+"
)


class SpacedWords(WordTokenizer):
    """Words between white space."""

    def word_tokenize(self, text: str) -> list[str]:
        """Returns the words of a text."""
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """Returns the sentences of a text."""
        return [text[start:end].strip() for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Returns start and end of each sentence that is not blank."""
        return [found.span() for found in _SENTENCE.finditer(text) if found.group().strip()]


class ScriptRuns(SpacedWords):
    """Runs of hiragana, katakana, kanji, or letters and digits."""

    def word_tokenize(self, text: str) -> list[str]:
        """Returns the runs of a text, without white space."""
        return _RUN_OF_ONE_SCRIPT.findall(text)


WORDS: dict[str, WordTokenizer] = {"en": SpacedWords("en"), "ja": ScriptRuns("ja")}
