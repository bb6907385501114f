"""Texts with labels: files of `label<TAB>text` or JSONL, and tensorflow-datasets."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.classification.batches import Examples, LabelledSet
from lm_jax.data.cleaning import uniform
from lm_jax.data.config import LabelledTextConfig
from lm_jax.data.documents import tokenize
from lm_jax.data.sources import cache_directory, find_files, read_text, tfds_builder_of, tfds_text
from lm_jax.data.tokenizers import identity, train_tokenizer
from lm_jax.errors import UserError


class _Labelled(NamedTuple):
    text: str
    label: str


def prepare_labelled_text(config: LabelledTextConfig) -> LabelledSet:
    """The texts of a configuration, none on both sides of the split.

    None is trained on twice; of a text with several labels the last counts. A test split that is
    the data set's own stays as it is, repetitions included. The tokenizer is trained on the
    training split alone.

    Raises:
      UserError: the files cannot be had or read, or a label is held out but never trained on.
    """
    config.validate()
    everything, held_out = _read_tfds(config) if config.source == "tfds" else _read_files(config)
    held_out_texts = {example.text for example in held_out or []}
    unique = {e.text: e for e in everything if e.text not in held_out_texts}
    dropped = len(everything) - len(unique)
    conflicts = sum(e.text in unique and unique[e.text].label != e.label for e in everything)
    if held_out is None:
        fraction = config.validation_fraction
        held_out = [e for e in unique.values() if uniform(e.text) < fraction]
        train = [e for e in unique.values() if uniform(e.text) >= fraction]
        how = f"{fraction:g} of the texts, by a hash of each"
    else:
        train, how = list(unique.values()), "the data set's own"
    if not train or not held_out:
        side = "validation" if not held_out else "training"
        raise UserError(f"{config.path}: no text is left for {side}; check the files")
    labels = sorted({example.label for example in train})
    if len(labels) < 2:
        raise UserError(f"{config.path}: every text is labelled {labels[0]!r}; expected two labels")
    unknown = {example.label for example in held_out} - set(labels)
    if unknown:
        raise UserError(
            f"{config.path}: {len(unknown)} labels (such as {min(unknown)!r}) are held out "
            f"but not among the {len(labels)} trained on"
        )
    tokenizer = train_tokenizer(config.tokenizer, [example.text for example in train])

    def split(examples: list[_Labelled]) -> Examples:
        targets = [labels.index(example.label) for example in examples]
        documents = tokenize(tokenizer, [example.text for example in examples])
        return Examples(documents, np.array(targets, np.int32))

    digest = hashlib.sha256(json.dumps([train, held_out]).encode()).hexdigest()
    choices = json.dumps(identity(config.tokenizer), sort_keys=True)
    counts = Counter(example.label for example in train)
    description = {
        "source": config.source,
        "path": config.path,
        "sha256": digest,
        "fingerprint": hashlib.sha256((digest + choices).encode()).hexdigest()[:32],
        "split": how,
        "repeated_texts_dropped": dropped,
        "of_which_labelled_otherwise": conflicts,
        "labels": labels,
        "sizes": {"vocab_size": tokenizer.vocab_size, "num_classes": len(labels)},
        "train": {"texts": len(train)} | {f"label {label}": counts[label] for label in labels},
        "validation": {"texts": len(held_out)},
        "summary": (
            f"{len(train):,} texts to train on, {len(held_out):,} to validate (split: {how}; "
            f"{dropped:,} repeated texts dropped, {conflicts:,} of them labelled otherwise); "
            f"{len(labels)} labels; "
            f"{tokenizer.vocab_size:,} kinds of token; SHA-256 {digest[:12]}"
        ),
    }
    return LabelledSet(labels, split(train), split(held_out), description, tokenizer)


def _read_files(config: LabelledTextConfig) -> tuple[list[_Labelled], list[_Labelled] | None]:
    def read(pattern: str) -> list[_Labelled]:
        return [example for path in find_files(pattern) for example in _read_file(path)]

    return read(config.path), read(config.validation_path) if config.validation_path else None


def _read_file(path: Path) -> list[_Labelled]:
    text = read_text(path).removeprefix("\ufeff")  # else the mark would be part of a label
    lines = io.StringIO(text, newline=None)  # unlike `splitlines`, only ends of lines end a line
    parse = _parse_json if path.suffix == ".jsonl" else _parse_tabs
    return [
        parse(line.rstrip("\n"), f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()
    ]


def _parse_tabs(line: str, place: str) -> _Labelled:
    label, tab, text = line.partition("\t")
    if not tab or not label.strip() or not text.strip():
        raise UserError(f"{place}: {line[:60]!r} is not label<TAB>text")
    return _Labelled(text.strip(), label.strip())


def _parse_json(line: str, place: str) -> _Labelled:
    try:
        values: dict[str, Any] = json.loads(line)
        text, label = values["text"], str(values["label"])
        if not isinstance(text, str) or not isinstance(values["label"], str | int):
            raise TypeError
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f'{place}: {line[:60]!r} is not {{"label": ..., "text": ...}}') from None
    if not text.strip():
        raise UserError(f"{place}: the text of label {label!r} is empty")
    return _Labelled(text.strip(), label)


def _read_tfds(config: LabelledTextConfig) -> tuple[list[_Labelled], list[_Labelled] | None]:
    builder = tfds_builder_of(config.path, cache_directory("") / "tensorflow_datasets")
    features = builder.info.features
    texts = [name for name, feature in features.items() if type(feature).__name__ == "Text"]
    if len(texts) != 1 or "label" not in features:
        raise UserError(f"{config.path} has {', '.join(features)}; expected one text and label")

    def read(split: str) -> list[_Labelled]:
        source = builder.as_data_source(split=split)
        name = features["label"].int2str
        return [_Labelled(tfds_text(e[texts[0]]), name(int(e["label"]))) for e in source]

    return read("train"), read("test") if "test" in builder.info.splits else None
