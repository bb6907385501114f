"""Cleaning and splitting of texts: keeps validation text out of what a model trains on."""

import hashlib
import re
from collections.abc import Callable, Sequence

_BLANK_LINE = re.compile(r"(\r?\n[ \t]*\r?\n)")

# (texts, fraction to hold out) -> training texts, validation texts
Split = Callable[[Sequence[str], float], tuple[list[str], list[str]]]


def drop_repeated_paragraphs(
    texts: Sequence[str], known: Sequence[str] = ()
) -> tuple[list[str], int]:
    """Returns the texts without paragraphs that occurred before, and the number of those dropped.

    Blank lines separate paragraphs; paragraphs are compared across all texts without surrounding
    white space. A text that holds only such paragraphs is returned as "".

    Args:
      known: texts whose paragraphs have all occurred before.
    """
    seen = {part.strip() for text in known for part in _BLANK_LINE.split(text)}
    kept_texts, dropped = [], 0
    for text in texts:
        kept: list[str] = []
        parts = _BLANK_LINE.split(text)  # paragraph, blank line, paragraph, ..., paragraph
        for blank, paragraph in zip(["", *parts[1::2]], parts[::2], strict=True):
            stripped = paragraph.strip()
            if stripped in seen:
                dropped += 1
                continue
            if stripped:
                seen.add(stripped)
            kept.append(blank + paragraph if kept else paragraph)
        kept_texts.append("".join(kept))
    return [text if text.strip() else "" for text in kept_texts], dropped


def split_by_document(texts: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Returns training and validation texts, by a hash of each text (`held_out_by_hash`)."""
    is_held_out = held_out_by_hash(texts, fraction)
    train = [text for text, held in zip(texts, is_held_out, strict=True) if not held]
    return train, [text for text, held in zip(texts, is_held_out, strict=True) if held]


def split_tails(texts: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Returns each text without its last `fraction` of characters, and those ends."""
    cuts = [int(len(text) * (1 - fraction)) for text in texts]
    train = [text[:cut] for text, cut in zip(texts, cuts, strict=True)]
    return train, [text[cut:] for text, cut in zip(texts, cuts, strict=True)]


SPLITS: dict[str, Split] = {"documents": split_by_document, "tail": split_tails}


def held_out_by_hash(keys: Sequence[str], fraction: float) -> list[bool]:
    """Returns whether each key is held out: one whose hash is below `fraction` is.

    A key therefore stays on its side whatever else joins the corpus. Where that leaves a side
    empty, as it may among a few keys, the keys are taken in the order of their hashes instead:
    `fraction` of the different keys, but at least one on each side. Equal keys stay together; a
    single key stays where its hash puts it.
    """
    hashes = [uniform(key) for key in keys]
    is_held_out = [value < fraction for value in hashes]
    ordered = sorted(set(hashes))
    if len(ordered) < 2 or any(is_held_out) and not all(is_held_out):
        return is_held_out
    count = min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)
    return [value < ordered[count] for value in hashes]


def uniform(text: str) -> float:
    """Returns a number in [0, 1) that the text alone decides."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def overlap(train: Sequence[str], validation: Sequence[str]) -> float | None:
    """Returns the share of validation lines of 40 or more characters that also occur in training.

    Lines are compared without surrounding white space; None if no validation line is that long.
    """
    known = {line.strip() for text in train for line in text.splitlines()}
    lines = [line.strip() for text in validation for line in text.splitlines()]
    long = [line for line in lines if len(line) >= 40]
    return sum(line in known for line in long) / len(long) if long else None
