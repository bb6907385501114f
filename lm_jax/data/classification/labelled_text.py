"""Texts with a label each: how they are read, held out and described."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lm_jax.data import tfds
from lm_jax.data.classification.batches import Examples
from lm_jax.data.cleaning import held_out_by_hash
from lm_jax.data.content import read_lines
from lm_jax.data.documents import OWN_SPLIT, Documents
from lm_jax.data.files import find_files
from lm_jax.data.pipeline import TextKind
from lm_jax.data.records import Record, records_of, text_field
from lm_jax.data.token_stream import tokenize
from lm_jax.data.tokenizers import Tokenizer, identity
from lm_jax.errors import UserError
from lm_jax.plurals import counted

if TYPE_CHECKING:
    from lm_jax.data.classification.config import LabelledTextConfig


class LabelledText(NamedTuple):
    """A document with its label."""

    text: str
    label: str


Labelled = Documents[LabelledText]
Reader = Callable[["LabelledTextConfig"], Labelled]


def read_files(config: LabelledTextConfig) -> Labelled:
    """Returns the lines of files: `label<TAB>text`, or JSONL or CSV of `label` and `text`.

    Raises:
      UserError: a file is missing, is not UTF-8, or holds a line of another form.
    """

    def read(pattern: str, field: str) -> list[LabelledText]:
        paths = find_files(pattern, f"data.{field}")
        return [example for path in paths for example in _read_file(path, f"data.{field}")]

    train, validation, test = (
        read(pattern, field) if pattern else None
        for pattern, field in (
            (config.path, "path"),
            (config.validation_path, "validation_path"),
            (config.test_path, "test_path"),
        )
    )
    return Documents(train or [], validation, test=test)


def _read_file(path: Path, given_by: str) -> list[LabelledText]:
    records = records_of(path, ("label", "text"), given_by=given_by)
    if records is not None:
        return [_of_record(record) for record in records]
    return [
        _parse_tabs(line, f"{path}:{number}")
        for number, line in enumerate(read_lines(path, given_by), 1)
        if line.strip()
    ]


def _parse_tabs(line: str, origin: str) -> LabelledText:
    label, tab, text = line.partition("\t")
    if not tab or not label.strip() or not text.strip():
        raise UserError(
            f"{origin}: {line[:60]!r} is not label<TAB>text; CSV needs a first line that names the "
            "columns label and text"
        )
    return LabelledText(text.strip(), label.strip())


def _of_record(record: Record) -> LabelledText:
    text, label = text_field(record, "text").strip(), record.values["label"]
    if not isinstance(label, str | int) or not str(label).strip():
        raise UserError(f"{record.origin}: label is {label!r:.60}; expected a text or an integer")
    if not text:
        raise UserError(f"{record.origin}: the text of label {str(label)!r} is empty")
    return LabelledText(text, str(label))


def read_tfds(config: LabelledTextConfig) -> Labelled:
    """Returns the train and test splits of a data set of tensorflow-datasets.

    The test split serves as validation, unless `config.test_path` names the one to test on.

    Raises:
      UserError: it cannot be had, or has other features than one text and a label.
    """
    builder = tfds.builder_of(config.path, config.cache_directory)
    features = builder.info.features
    texts = tfds.text_features(features)
    if len(texts) != 1 or "label" not in features:
        raise UserError(f"{config.path} has {', '.join(features)}; expected one text and label")

    name = features["label"].int2str
    splits = tfds.splits(builder, config, test_validates=True)
    train, validation, test = (
        [LabelledText(tfds.text(e[texts[0]]), name(int(e["label"]))) for e in splits[split]]
        if split in splits
        else None
        for split in ("train", "validation", "test")
    )
    return Documents(train or [], validation, test=test)


READERS: dict[str, Reader] = {"files": read_files, "tfds": read_tfds}


def _drop_repetitions(documents: Labelled, config: LabelledTextConfig) -> Labelled:
    """Returns each training text once, with its last label, and none that is held out.

    Held-out splits of the data set's own stay as they are, repetitions included.
    """
    everything = documents.train
    held_out = (*(documents.validation or ()), *(documents.test or ()))
    held_out_texts = {example.text for example in held_out}
    unique = {e.text: e for e in everything if e.text not in held_out_texts}
    conflicts = sum(e.text in unique and unique[e.text].label != e.label for e in everything)
    return replace(documents, train=list(unique.values()), names=None).noting(
        repeated_texts_dropped=len(everything) - len(unique),
        of_which_labelled_otherwise=conflicts,
    )


def _hold_out(documents: Labelled, config: LabelledTextConfig) -> Labelled:
    """Returns the documents split by a hash of each text, unless the source splits them itself."""
    if documents.validation is None:
        fraction = config.validation_fraction
        is_held = held_out_by_hash([e.text for e in documents.train], fraction)
        held_out = [e for e, held in zip(documents.train, is_held, strict=True) if held]
        train = [e for e, held in zip(documents.train, is_held, strict=True) if not held]
        how = f"{fraction:g} of the texts, by a hash of each"
        documents = replace(documents, train=train, validation=held_out).noting(split=how)
    else:
        documents = documents.noting(split=OWN_SPLIT)
    if not documents.train or not documents.validation:
        side = "validation" if not documents.validation else "training"
        raise UserError(
            f"{config.path or config.source}: no text is left for {side}; check the files"
        )
    return documents


def _list_labels(documents: Labelled, config: LabelledTextConfig) -> Labelled:
    """Returns the documents with the list of their labels, which is that of the training split."""
    origin = config.origin or config.source
    labels = sorted({example.label for example in documents.train})
    if len(labels) < 2:
        raise UserError(f"{origin}: every text is labelled {labels[0]!r}; expected two labels")
    held_out = (*(documents.validation or ()), *(documents.test or ()))
    unknown = {example.label for example in held_out} - set(labels)
    if unknown:
        raise UserError(
            f"{origin}: {counted(len(unknown), 'label is', 'labels are')} held out, such as "
            f"{min(unknown)!r}, but not among the {len(labels)} trained on"
        )
    return documents.noting(labels=labels)


def _tokenized(
    examples: Sequence[LabelledText],
    documents: Labelled,
    config: LabelledTextConfig,
    tokenizer: Tokenizer,
) -> Examples:
    labels = documents.description["labels"]
    targets = [labels.index(example.label) for example in examples]
    texts = tokenize(tokenizer, [example.text for example in examples])
    return Examples(texts, np.array(targets, np.int32))


def _fingerprint(
    documents: Labelled, config: LabelledTextConfig, digest: str, key: str
) -> tuple[str, str]:
    splits = [documents.train, documents.validation]
    if documents.test is not None:
        splits.append(documents.test)
    content = json.dumps(splits)
    digest = hashlib.sha256(content.encode()).hexdigest()
    choices = json.dumps(identity(config.tokenizer), sort_keys=True)
    return digest, hashlib.sha256((digest + choices).encode()).hexdigest()[:32]


def _counts(documents: Labelled, splits: Mapping[str, Examples]) -> dict[str, dict[str, int]]:
    counts = Counter(example.label for example in documents.train)
    labels = {f"label {label}": counts[label] for label in documents.description["labels"]}
    found = {name: {"texts": len(split.targets)} for name, split in splits.items()}
    return found | {"train": found["train"] | labels}


def _summary(description: dict[str, Any]) -> str:
    to_test = f", {description['test']['texts']:,} to test" if "test" in description else ""
    return (
        f"{counted(description['train']['texts'], 'text')} to train on, "
        f"{description['validation']['texts']:,} to validate{to_test} "
        f"(split: {description['split']}; "
        f"{counted(description['repeated_texts_dropped'], 'repeated text')} dropped, "
        f"{description['of_which_labelled_otherwise']:,} of them labelled otherwise); "
        f"{len(description['labels'])} labels; "
        f"vocabulary: {description['sizes']['vocab_size']:,} tokens; "
        f"SHA-256 {description['sha256'][:12]}"
    )


LABELLED_TEXT: TextKind[LabelledText, LabelledTextConfig, Examples] = TextKind(
    readers=READERS,
    strings=tuple,
    stages=(_drop_repetitions, _hold_out, _list_labels),
    texts=lambda examples, config: [example.text for example in examples],
    split=Examples,
    tokenized=_tokenized,
    fingerprint=_fingerprint,
    counts=_counts,
    summary=_summary,
    not_in_key=("test_path",),
)
