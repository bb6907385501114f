"""From a configuration to tokens on disk, made once and read back ever after."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax.data import cleaning, sources
from lm_jax.data.cache import cached, load_documents, save_documents
from lm_jax.data.config import DataConfig
from lm_jax.data.documents import TokenizedDocuments, tokenize
from lm_jax.data.tokenizers import Tokenizer, identity, load_tokenizer, train_tokenizer

_FORMAT = 3  # raise it when what the cache holds changes meaning


class Corpus(NamedTuple):
    """Both splits in tokens, what made them tokens, and what a reader should know of them."""

    tokenizer: Tokenizer
    train: TokenizedDocuments
    validation: TokenizedDocuments
    description: dict[str, Any]


def prepare_corpus(config: DataConfig) -> Corpus:
    """The corpus of a configuration, from the cache when the same one was prepared before.

    The cache is addressed by the raw documents and by all that decides what becomes of them.

    Raises:
      UserError: the source, the split or the tokenizer cannot be had; nothing is cached then.
      OSError: the cache directory cannot be written.
    """
    config.validate()
    cache = sources.cache_directory(config.cache_directory)
    documents = sources.load(config, cache)
    digest = sources.sha256([*documents.texts, "", *(documents.validation or [])])
    choices = asdict(config) | {"cache_directory": "", "path": "", "format": _FORMAT}
    choices["tokenizer"] = identity(config.tokenizer)
    key = json.dumps([digest, choices], sort_keys=True).encode()
    fingerprint = hashlib.sha256(key).hexdigest()[:32]
    corpus = cached(
        cache / fingerprint,
        lambda: _make(config, documents, digest, fingerprint),
        _write,
        _read,
    )
    # Equal documents share a cache, wherever they come from this time.
    here = {"path": config.path, **documents.description}
    return corpus._replace(description=corpus.description | here)


def _make(
    config: DataConfig, documents: sources.Documents, digest: str, fingerprint: str
) -> Corpus:
    texts, dropped = documents.texts, 0
    if config.drop_repeated_paragraphs:
        texts, dropped = cleaning.drop_repeated_paragraphs(texts)
    if documents.validation is None:
        train, validation = cleaning.split_documents(texts, config)
        how = f"{config.split}, {config.validation_fraction:g} of the text"
    else:
        train, validation, how = texts, documents.validation, "the data set's own"
    tokenizer = train_tokenizer(config.tokenizer, train)
    splits = {"train": tokenize(tokenizer, train), "validation": tokenize(tokenizer, validation)}
    description = {
        "source": config.source,
        "path": config.path,
        **documents.description,
        "sha256": digest,
        "fingerprint": fingerprint,
        "split": how,
        "repeated_paragraphs_dropped": dropped,
        "overlap_of_long_lines": cleaning.overlap(train, validation),
        "sizes": {"vocab_size": tokenizer.vocab_size},
    } | {name: _sizes(split) for name, split in splits.items()}
    description["summary"] = _summary(description)
    return Corpus(tokenizer, splits["train"], splits["validation"], description)


def _write(corpus: Corpus, place: Path) -> None:
    corpus.tokenizer.save(place / "tokenizer")
    save_documents(corpus.train, place, "train")
    save_documents(corpus.validation, place, "validation")
    (place / "description.json").write_text(json.dumps(corpus.description, indent=2) + "\n")


def _summary(description: dict[str, Any]) -> str:
    train, validation = description["train"], description["validation"]
    overlap = description["overlap_of_long_lines"]
    kinds = description["sizes"]["vocab_size"]
    return (
        f"{train['characters']:,} characters in {train['documents']:,} documents to train on, "
        f"{validation['characters']:,} in {validation['documents']:,} to validate "
        f"(split: {description['split']}; {description['repeated_paragraphs_dropped']:,} repeated "
        f"paragraphs dropped; {overlap or 0:.1%} of long validation lines stand in training); "
        f"{kinds:,} kinds of token; SHA-256 {description['sha256'][:12]}"
    )


def _sizes(split: TokenizedDocuments) -> dict[str, int]:
    return {
        "documents": len(split.characters),
        "characters": int(split.characters.sum()),
        "words": int(split.words.sum()),
        "tokens": int(split.starts[-1]),
    }


def _read(place: Path) -> Corpus:
    description = json.loads((place / "description.json").read_text())
    return Corpus(
        load_tokenizer(place / "tokenizer"),
        load_documents(place, "train"),
        load_documents(place, "validation"),
        description,
    )
