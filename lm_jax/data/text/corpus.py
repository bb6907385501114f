"""Plain text: how documents are cleaned, held out and described."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lm_jax.choices import choose
from lm_jax.data.cache import cache_directory
from lm_jax.data.cleaning import SPLITS, drop_repeated_paragraphs, overlap, uniform
from lm_jax.data.dataset import Dataset
from lm_jax.data.documents import OWN_SPLIT, READ_FROM, SOURCES, Documents, TokenizedDocuments
from lm_jax.data.pipeline import FEW, TextKind
from lm_jax.data.readers import READERS
from lm_jax.data.spool import Selected
from lm_jax.data.text.config import DataConfig
from lm_jax.data.token_stream import tokenize
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.errors import UserError
from lm_jax.plurals import counted
from lm_jax.progress import shown

Corpus = Dataset[TokenizedDocuments, Tokenizer]

_BLOCK = 100_000  # characters of a text that join the sample for the tokenizer, or do not


def _drop_repetitions(documents: Documents[str], config: DataConfig) -> Documents[str]:
    texts: Sequence[str] = documents.train
    dropped = 0
    if config.drop_repeated_paragraphs:
        directory = cache_directory(config.cache_directory)
        looked_at = shown(texts, len(texts), "looking for repeated paragraphs")
        texts, dropped = drop_repeated_paragraphs(looked_at, documents.test or (), directory)
    lengths = list(map(len, texts))
    kept = [number for number, length in enumerate(lengths) if length]
    if not kept:
        raise UserError(
            "no text is left to train on: every paragraph of data.path stands in "
            f"data.test_path {config.test_path!r}; name other texts"
        )
    names = documents.names or []
    emptied = [number for number, length in enumerate(lengths) if not length]
    return replace(documents, train=Selected(texts, kept), names=Selected(names, kept)).noting(
        repeated_paragraphs_dropped=dropped,
        repeated_documents_dropped=len(emptied),
        repeated_documents=[names[number] for number in emptied[:FEW]],
    )


def hold_out(documents: Documents[str], config: DataConfig) -> Documents[str]:
    """Returns the documents split by `config.split`, unless the source splits them itself.

    Raises:
      UserError: one of the splits would be empty.
    """
    names = documents.names or []
    if documents.validation is not None:
        documents = documents.noting(split=OWN_SPLIT)
        return _counting_sources(documents, range(len(documents.train)), [], names)
    fraction, texts = config.validation_fraction, documents.train
    split = choose(SPLITS, config.split, "data.split")(
        texts, fraction, cache_directory(config.cache_directory)
    )
    if not split.train or not split.validation:
        side = "validation" if not split.validation else "training"
        raise UserError(
            f"no {side} text is left: {counted(len(texts), 'document')} split by {config.split} "
            f"with data.validation_fraction {fraction}; give more documents, set data.split=tail "
            "or another fraction"
        )
    trained = set(split.trained)
    whole = [number for number in split.held_out if number not in trained]
    found = replace(documents, train=split.train, validation=split.validation, names=None).noting(
        split=f"{config.split}, {fraction:g} of the text",
        held_out_documents=[names[n] for n in whole] if len(whole) <= FEW else [],
    )
    return _counting_sources(found, split.trained, split.held_out, names)


def _counting_sources(
    documents: Documents[str],
    trained: Sequence[int],
    held_out: Sequence[int],
    names: Sequence[str],
) -> Documents[str]:
    """Notes how many documents of each split are of each source, where there are several.

    Args:
      trained, held_out: positions in `names` of the documents of both splits, if they are among
        those of the sources.
      names: the numbers of documents among all that were read.
    """
    read = documents.description.get(READ_FROM)
    if not read:
        return documents
    ends = np.cumsum(list(read.values()))

    def counts(positions: Sequence[int]) -> dict[str, int]:
        numbers = np.array([int(names[position]) for position in positions], np.int64)
        found = np.bincount(np.searchsorted(ends, numbers, side="right"), minlength=len(read))
        return dict(zip(read, found.tolist(), strict=True))

    of_split = {"train": counts(trained)}
    for name, count in of_split["train"].items():
        if not count:
            raise UserError(f"no training text is left of data.sources {name}; give more documents")
    if len(held_out):
        of_split["validation"] = counts(held_out)
    return documents.noting(**{SOURCES[split]: found for split, found in of_split.items()})


def training_sample(texts: Sequence[str], config: TokenizerConfig) -> list[str]:
    """Returns the texts that the tokenizer is trained on, a sample of blocks if they are long."""
    most = config.training_characters
    characters = sum(map(len, texts))
    if characters <= most:
        return list(texts)
    blocks = (
        text[start : start + _BLOCK] for text in texts for start in range(0, len(text), _BLOCK)
    )
    return [block for block in blocks if uniform(block) < most / characters]


def _measure_overlap(documents: Documents[str], config: DataConfig) -> Documents[str]:
    notes = {"overlap_of_long_lines": overlap(documents.train, documents.validation or [])}
    if documents.test is not None:
        notes["overlap_of_long_test_lines"] = overlap(documents.train, documents.test)
    return documents.noting(**notes)


def _counts(
    documents: Documents[str], splits: Mapping[str, TokenizedDocuments]
) -> dict[str, dict[str, int]]:
    return {
        name: {
            "documents": len(split.characters),
            "characters": int(split.characters.sum()),
            "words": int(split.words.sum()),
            "tokens": int(split.starts[-1]),
        }
        for name, split in splits.items()
    }


def _summary(description: dict[str, Any]) -> str:
    train, validation = description["train"], description["validation"]
    overlap = description["overlap_of_long_lines"]
    to_test, of_test = "", ""
    if test := description.get("test"):
        sources = _by_source(description.get(SOURCES["test"], {}))
        to_test = f", {test['characters']:,} in {test['documents']:,}{sources} to test"
        shared = description["overlap_of_long_test_lines"] or 0
        of_test = f" and {shared:.1%} of long test lines"
    kinds = description["sizes"]["vocab_size"]
    held_out = ", ".join(description.get("held_out_documents", []))
    held_out = f", held out: {held_out}" if held_out else ""
    of_split = {split: _by_source(description.get(key, {})) for split, key in SOURCES.items()}
    return (
        f"{counted(train['characters'], 'character')} in "
        f"{counted(train['documents'], 'document')}{of_split['train']} to train on, "
        f"{validation['characters']:,} in {validation['documents']:,}{of_split['validation']} to "
        f"validate{to_test} (split: {description['split']}{held_out}; "
        f"{counted(description['repeated_paragraphs_dropped'], 'repeated paragraph')} dropped"
        f"{_emptied(description)}; {overlap or 0:.1%} of long validation lines{of_test} occur in "
        "training); "
        f"vocabulary: {kinds:,} tokens; SHA-256 {description['sha256'][:12]}"
    )


def _by_source(counts: Mapping[str, int]) -> str:
    sources = [f"{count:,} of {name}" for name, count in counts.items()]
    return f" ({', '.join(sources)})" if sources else ""


def _emptied(description: dict[str, Any]) -> str:
    """Returns which documents held nothing but repeated paragraphs, and what keeps them."""
    count, names = description["repeated_documents_dropped"], description["repeated_documents"]
    if not count:
        return ""
    which = ", ".join(names + ["..."] * (count > len(names)))
    documents = counted(count, "document that holds", "documents that hold")
    return (
        f", with them {documents} nothing else ({which}); "
        "data.drop_repeated_paragraphs=false keeps them"
    )


TEXT: TextKind[str, "DataConfig", TokenizedDocuments] = TextKind(
    readers=READERS,
    strings=lambda text: (text,),
    stages=(_drop_repetitions, hold_out, _measure_overlap),
    texts=lambda texts, config: training_sample(texts, config.tokenizer),
    split=TokenizedDocuments,
    tokenized=lambda texts, documents, config, tokenizer: tokenize(
        tokenizer, texts, cache_directory(config.cache_directory)
    ),
    fingerprint=lambda documents, config, digest, key: (digest, key),
    counts=_counts,
    summary=_summary,
    not_in_key=(
        "validation_path",
        "invalid_utf8",
        "test_path",
        "sources",
    ),
)
