"""Documents before and after they are tokenized."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from lm_jax.data.tokenizers import Tokenizer

T = TypeVar("T")

BLANK = "blank documents"  # a key of `left_out`
READ_FROM = "documents_read_from"  # key of a description: source of a mixture -> its documents,
# which follow those of the source before
SOURCES = {"train": "sources", "validation": "validation_sources", "test": "test_sources"}
"""Keys of a description by split: source of a mixture -> its documents in the split, in a row."""
OWN_SPLIT = "the data set's own"  # description of a validation split that the source holds out


@dataclass(frozen=True)
class Documents(Generic[T]):
    """Raw documents on their way from a reader, through stages, to a tokenizer.

    A document is a str, or a NamedTuple of a kind of data (a labelled text, a pair of texts). Lists
    will do; many documents are better kept on disk (`spool`).
    """

    train: Sequence[T]
    validation: Sequence[T] | None = None  # None: nothing is held out yet
    description: dict[str, Any] = field(default_factory=dict)  # joins what a run records
    names: Sequence[str] | None = None  # of the training documents, such as their files
    test: Sequence[T] | None = None  # measured after training alone; None: there is no test split

    def noting(self, **notes: Any) -> "Documents[T]":
        """Returns the same documents with notes added to their description."""
        return replace(self, description=self.description | notes)


class TokenizedDocuments(NamedTuple):
    """One split as a stream of tokens, with the sizes of the raw text of its documents."""

    tokens: np.ndarray  # [N] uint16 or int32
    starts: np.ndarray  # [D + 1] int64: position of the token before each document; N - 1 at last
    characters: np.ndarray  # [D] int64: Unicode code points
    bytes: np.ndarray  # [D] int64: of the UTF-8 text
    words: np.ndarray  # [D] int64: separated by white space


def texts_of(tokenizer: Tokenizer, documents: TokenizedDocuments) -> list[str]:
    """Returns the raw text of each document; exact if the tokenizer is lossless."""
    bounds = zip(documents.starts[:-1] + 1, documents.starts[1:], strict=True)
    return [tokenizer.decode(documents.tokens[first:last]) for first, last in bounds]


def consecutive(documents: TokenizedDocuments, numbers: range) -> TokenizedDocuments:
    """Returns consecutive documents; the token that ends the one before opens them."""
    first, last = numbers.start, numbers.stop
    starts = documents.starts[first : last + 1]
    tokens = documents.tokens[int(starts[0]) : int(starts[-1]) + 1]
    sizes = (counts[first:last] for counts in documents[2:])
    return TokenizedDocuments(tokens, starts - starts[0], *sizes)


def joined(parts: Sequence[TokenizedDocuments]) -> TokenizedDocuments:
    """Returns the documents of all parts in a row."""
    tokens = np.concatenate([parts[0].tokens[:1], *(part.tokens[1:] for part in parts)])
    ends = np.concatenate([np.diff(part.starts) for part in parts]).cumsum()
    sizes = (np.concatenate(counts) for counts in zip(*(part[2:] for part in parts), strict=True))
    return TokenizedDocuments(tokens, np.append(0, ends), *sizes)


def ranges(sources: Mapping[str, int]) -> dict[str, range]:
    """Returns the numbers of the documents of each source that has any.

    Args:
      sources: how many documents each source has, one source after the other.
    """
    stops = np.cumsum([0, *sources.values()]).tolist()
    found = {name: range(stops[i], stops[i + 1]) for i, name in enumerate(sources)}
    return {name: numbers for name, numbers in found.items() if numbers}


class Sample(NamedTuple):
    """Some documents of a split."""

    documents: TokenizedDocuments
    numbers: np.ndarray | None  # [D] of these documents in the split; None: all, in their order
    sources: Mapping[str, int] = {}  # of a mixture -> its documents here, in a row


def sample_of(documents: TokenizedDocuments, max_tokens: int, tokenizer: Tokenizer) -> Sample:
    """Returns whole documents of at most about `max_tokens` tokens together, at least one.

    They are drawn in an order that the number of documents alone decides, so that a smaller sample
    is part of a larger one. Where the first document alone is longer, the beginning of its text is
    taken, unless the tokenizer loses text.
    """
    lengths = np.diff(documents.starts)
    if lengths.sum() <= max_tokens:
        return Sample(documents, None)
    order = np.random.default_rng(0).permutation(len(lengths))
    fitting = int(np.searchsorted(np.cumsum(lengths[order]), max_tokens, side="right"))
    numbers = np.sort(order[: max(fitting, 1)])
    firsts = documents.starts[numbers] + 1
    parts = [
        documents.tokens[first : first + length]
        for first, length in zip(firsts, lengths[numbers], strict=True)
    ]
    sizes = [counts[numbers] for counts in documents[2:]]
    if not fitting and tokenizer.lossless:
        text = tokenizer.decode(parts[0][: max_tokens - 1]).rstrip("\ufffd")
        parts = [np.append(tokenizer.encode(text), tokenizer.end_of_document)]
        sizes = [np.array([size]) for size in (len(text), len(text.encode()), len(text.split()))]
    starts = np.append(0, np.cumsum([len(part) for part in parts]))
    tokens = np.concatenate([documents.tokens[:1], *parts]).astype(documents.tokens.dtype)
    return Sample(TokenizedDocuments(tokens, starts, *sizes), numbers)


SampleFunction = Callable[[Any, int, Any], Sample]
"""(split, most tokens, tokenizer) -> some of its documents, such as `sample_of`."""

_FEWEST_OF_A_SOURCE = 4096  # tokens


def sample_of_sources(
    sample: SampleFunction,
    documents: TokenizedDocuments,
    sources: Mapping[str, int],
    max_tokens: int,
    tokenizer: Tokenizer,
) -> Sample:
    """Returns a sample of each source of a mixture, about as large as its share of the split.

    A small source is sampled up to 4,096 tokens, so that it is measured, too.

    Args:
      sample: how the documents of one source are sampled.
      sources: how many documents each source has in the split, one source after the other.
    """
    whole = int(documents.starts[-1])
    if whole <= max_tokens:
        return Sample(documents, None, sources)
    parts, numbers = [], []
    for chosen in ranges(sources).values():
        part = consecutive(documents, chosen)
        share = max_tokens * int(part.starts[-1]) // whole
        found = sample(part, max(share, _FEWEST_OF_A_SOURCE), tokenizer)
        parts.append(found.documents)
        numbers.append(chosen.start + _numbers(found))
    counts = dict(zip(ranges(sources), map(len, numbers), strict=True))
    return Sample(joined(parts), np.concatenate(numbers), counts)


def _numbers(sample: Sample) -> np.ndarray:
    return np.arange(len(sample.documents[2])) if sample.numbers is None else sample.numbers
