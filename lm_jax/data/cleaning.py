"""Keeping what a model trains on apart from what it is measured on."""

import hashlib
import re
from collections.abc import Sequence

from lm_jax.data.config import DataConfig
from lm_jax.errors import UserError

_BLANK_LINE = re.compile(r"(\r?\n[ \t]*\r?\n)")


def drop_repeated_paragraphs(texts: Sequence[str]) -> tuple[list[str], int]:
    """The texts without paragraphs that stood before, in any of them; and how many went.

    Paragraphs are what blank lines separate; they are compared without surrounding white space.
    """
    seen: set[str] = set()
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
    return [text for text in kept_texts if text.strip()], dropped


def split_documents(texts: Sequence[str], config: DataConfig) -> tuple[list[str], list[str]]:
    """Training and validation documents.

    `documents` decides by a hash of each document alone, so that a document stays on its side
    whatever else joins the corpus; `tail` cuts the last fraction of characters off each document.

    Raises:
      UserError: one of the two would be empty.
    """
    fraction = config.validation_fraction
    if config.split == "tail":
        cuts = [int(len(text) * (1 - fraction)) for text in texts]
        train = [text[:cut] for text, cut in zip(texts, cuts, strict=True)]
        validation = [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
    else:
        validation = [text for text in texts if uniform(text) < fraction]
        train = [text for text in texts if uniform(text) >= fraction]
    train, validation = list(filter(None, train)), list(filter(None, validation))
    if not train or not validation:
        side = "validation" if not validation else "training"
        raise UserError(
            f"no {side} text is left: {len(texts)} document(s) split by {config.split} with "
            f"data.validation_fraction {fraction}; set data.split=tail or another fraction"
        )
    return train, validation


def uniform(text: str) -> float:
    """A number in [0, 1) that the text alone decides."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def overlap(train: Sequence[str], validation: Sequence[str]) -> float | None:
    """The share of validation lines of 40 characters or more that also stand in training."""
    known = {line.strip() for text in train for line in text.splitlines()}
    lines = [line.strip() for text in validation for line in text.splitlines()]
    long = [line for line in lines if len(line) >= 40]
    return sum(line in known for line in long) / len(long) if long else None
