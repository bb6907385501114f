"""Language identification by py3langid, a naive Bayes model over byte n-grams (BSD licence)."""

import functools
from collections import Counter
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from lm_jax.data.preparation.documents import write_tally
from lm_jax.data.preparation.plan import Plan


@functools.cache
def _identifier() -> LanguageIdentifier:
    """Returns the model, which a process loads once."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # Its table has 16 bits, which every document would convert to 32.
    identifier.nb_ptc = identifier.nb_ptc.astype(np.float32)
    return identifier


def pieces_of(text: str, characters: int) -> str:
    """Returns a text of at most this length, or three pieces of it: beginning, middle and end."""
    if len(text) <= characters:
        return text
    size = characters // 3
    middle = (len(text) - size) // 2
    return "\n".join((text[:size], text[middle : middle + size], text[len(text) - size :]))


class LanguageFilter(BaseFilter):
    """Keeps documents of one language, and tallies the languages of all.

    A document is judged by pieces from its beginning, middle and end: a page in one language may
    quote another.
    """

    name = "language"

    def __init__(self, plan: Plan):
        super().__init__(plan.dropped("language"))
        self.directory, self.language = plan.directory, plan.config.language
        self.threshold = plan.config.language_identification
        self.found: Counter[str] = Counter()

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Returns whether a document stays, or why not."""
        sample = pieces_of(doc.text, self.threshold.characters)
        language, probability = _identifier().classify(sample)
        self.found[language] += 1
        if language != self.language:
            doc.metadata["language"] = language
            return False, "another language"
        if probability < self.threshold.minimum_probability:
            doc.metadata["probability"] = round(probability, 3)
            return False, "uncertain"
        return True

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Yields the documents that stay."""
        yield from super().run(data, rank, world_size)
        write_tally(self.directory, "languages", rank, self.found)


def add_language(plan: Plan) -> None:
    """Drops documents in another language, and those that may be."""
    plan.add(LanguageFilter(plan))
