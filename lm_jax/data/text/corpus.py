"""Plain text: how documents are cleaned, held out and described."""

from typing import Any

from lm_jax.choices import choose
from lm_jax.data.cleaning import SPLITS, drop_repeated_paragraphs, overlap
from lm_jax.data.config import DataConfig
from lm_jax.data.dataset import Dataset
from lm_jax.data.documents import OWN_SPLIT, Documents, TokenizedDocuments, tokenize
from lm_jax.data.pipeline import TextKind
from lm_jax.data.readers import READERS
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.errors import UserError

Corpus = Dataset[TokenizedDocuments, Tokenizer]


def _drop_repetitions(documents: Documents[str], config: DataConfig) -> Documents[str]:
    texts, dropped = documents.train, 0
    if config.drop_repeated_paragraphs:
        texts, dropped = drop_repeated_paragraphs(texts)
    return Documents(texts, documents.validation, documents.description).noting(
        repeated_paragraphs_dropped=dropped
    )


def hold_out(documents: Documents[str], config: DataConfig) -> Documents[str]:
    """Returns the documents split by `config.split`, unless the source splits them itself.

    Raises:
      UserError: one of the splits would be empty.
    """
    if documents.validation is not None:
        return documents.noting(split=OWN_SPLIT)
    fraction, texts = config.validation_fraction, documents.train
    train, validation = choose(SPLITS, config.split, "data.split")(texts, fraction)
    train, validation = list(filter(None, train)), list(filter(None, validation))
    if not train or not validation:
        side = "validation" if not validation else "training"
        raise UserError(
            f"no {side} text is left: {len(texts)} document(s) split by {config.split} with "
            f"data.validation_fraction {fraction}; set data.split=tail or another fraction"
        )
    return Documents(train, validation, documents.description).noting(
        split=f"{config.split}, {fraction:g} of the text"
    )


def _measure_overlap(documents: Documents[str], config: DataConfig) -> Documents[str]:
    return documents.noting(
        overlap_of_long_lines=overlap(documents.train, documents.validation or [])
    )


def _counts(
    documents: Documents[str], train: TokenizedDocuments, validation: TokenizedDocuments
) -> dict[str, dict[str, int]]:
    return {
        name: {
            "documents": len(split.characters),
            "characters": int(split.characters.sum()),
            "words": int(split.words.sum()),
            "tokens": int(split.starts[-1]),
        }
        for name, split in (("train", train), ("validation", validation))
    }


def _summary(description: dict[str, Any]) -> str:
    train, validation = description["train"], description["validation"]
    overlap = description["overlap_of_long_lines"]
    kinds = description["sizes"]["vocab_size"]
    return (
        f"{train['characters']:,} characters in {train['documents']:,} documents to train on, "
        f"{validation['characters']:,} in {validation['documents']:,} to validate "
        f"(split: {description['split']}; {description['repeated_paragraphs_dropped']:,} repeated "
        f"paragraphs dropped; {overlap or 0:.1%} of long validation lines occur in training); "
        f"{kinds:,} kinds of token; SHA-256 {description['sha256'][:12]}"
    )


TEXT: TextKind[str, "DataConfig", TokenizedDocuments] = TextKind(
    readers=READERS,
    strings=lambda text: (text,),
    stages=(_drop_repetitions, hold_out, _measure_overlap),
    texts=lambda texts, config: texts,
    split=TokenizedDocuments,
    tokenized=lambda texts, documents, config, tokenizer: tokenize(tokenizer, texts),
    fingerprint=lambda documents, config, digest, key: (digest, key),
    counts=_counts,
    summary=_summary,
)
