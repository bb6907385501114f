"""Where the tokens of a text stand in it, in characters."""

import numpy as np

from lm_jax.data.tokenizers import Tokenizer

_REPLACEMENT = "\ufffd"  # what a part of a character decodes to


def token_offsets(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> np.ndarray:
    """Returns the first character of each token and the one after its last, int32 [T, 2].

    Tokens that share a character, such as the bytes of an emoji, each span all of it. A token whose
    text does not stand in the text, which a lossy tokenizer may make, spans nothing.

    Args:
      ids: what `tokenizer.encode(text)` returns, int32 [T].
    """
    spans = [] if tokenizer.lossless else tokenizer.spans(text)
    if len(spans) != len(ids):
        spans = _Alignment(tokenizer, text).spans(ids.tolist())
    return np.array(spans, np.int32).reshape(-1, 2)


class _Alignment:
    """Decodes tokens a few at a time, until what they spell is whole and stands in the text."""

    def __init__(self, tokenizer: Tokenizer, text: str):
        self._decode, self._text = tokenizer.codec.decode, text
        self._known: dict[int, str] = {}  # what a token spells after another one

    def spans(self, ids: list[int]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        at = 0
        while len(found) < len(ids):
            group = self._group(ids, len(found), at)
            found += group
            at = max([at, *(last for _, last in group)])
        return found

    def _group(self, ids: list[int], first: int, at: int) -> list[tuple[int, int]]:
        """Returns the spans of the fewest tokens from `first` on that spell whole characters."""
        known = self._known.get(ids[first])
        if first and known and self._text.startswith(known, at):
            return [(at, at + len(known))]
        # Some decoders drop the space before the first token, so one token goes before it.
        before = ids[max(first - 1, 0) : first]
        skipped = len(self._decode(before)) if before else 0
        ends: list[int] = []
        group = list(before)
        for index in ids[first:]:
            group.append(index)
            spelled = self._decode(group)[skipped:]
            if self._text.startswith(spelled, at):
                if not ends and first:
                    self._known[index] = spelled
                return _within(at, [*ends, len(spelled)])
            whole = spelled.rstrip(_REPLACEMENT)
            if whole == spelled or not self._text.startswith(whole, at):
                break
            ends.append(len(whole))
        return [self._search(ids[first], before, skipped, at)]

    def _search(self, index: int, before: list[int], skipped: int, at: int) -> tuple[int, int]:
        """Returns where the word of a token stands next in the text; nowhere: no characters."""
        word = self._decode([*before, index])[skipped:].strip()
        start = self._text.find(word, at, at + len(word) + 16) if word else -1
        return (at, at) if start < 0 else (start, start + len(word))


def _within(at: int, ends: list[int]) -> list[tuple[int, int]]:
    """Returns spans of tokens after which so many characters are whole, the last one's all."""
    spans, start = [], 0
    for number, end in enumerate(ends, 1):
        spans.append((at + start, at + min(end + (number < len(ends)), ends[-1])))
        start = end
    return spans
