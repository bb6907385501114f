"""Readers of plain text: what Python itself carries, files, tensorflow-datasets.

A reader is a function of a configuration that returns `Documents`. A reader of your own needs no
change here: `--config.data.source=my_reader.py:read` calls the function `read` of that file. What
it reads may depend on `config.path`. Readers of labelled texts and of pairs of texts differ only in
their documents; they are in `classification/labelled_text.py` and `seq2seq/readers.py`.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lm_jax.data import tfds
from lm_jax.data.cache import cache_directory
from lm_jax.data.documents import BLANK, READ_FROM, SOURCES, Documents
from lm_jax.data.embedded import python_reference, standard_library
from lm_jax.data.sources import parse_sources
from lm_jax.data.spool import Selected, Spool
from lm_jax.data.text_stream import Counts, stream_texts
from lm_jax.errors import UserError
from lm_jax.progress import progress

if TYPE_CHECKING:
    from lm_jax.data.text.config import DataConfig

Reader = Callable[["DataConfig"], Documents[str]]


def read_embedded(config: DataConfig) -> Documents[str]:
    """Returns the topics of CPython's language reference, which differ between releases."""
    return Documents(python_reference(), description={"python": platform.python_version()})


def read_stdlib(config: DataConfig) -> Documents[str]:
    """Returns the source files of Python's standard library, which differ between releases."""
    return Documents(standard_library(), description={"python": platform.python_version()})


def read_files(config: DataConfig) -> Documents[str]:
    """Returns the files of `config.path`, one document a file, or one a record of JSONL or CSV.

    The text of a record is its field `config.text_feature`, which is `text` by default. Files of
    `config.validation_path` and `config.test_path`, where they are given, are held out.

    Raises:
      UserError: there are none, a file is not UTF-8, or a record has no such text.
    """
    documents = _mixed(config) if config.sources else _texts(config, config.path, "data.path")
    left_out = Counter(documents.description.get("left_out", {}))
    validation, of_validation = _held_out_split("validation", config, left_out)
    test, of_test = _held_out_split("test", config, left_out)
    documents = replace(documents, validation=validation, test=test)
    documents = documents.noting(**of_validation, **of_test)
    return documents.noting(left_out=dict(left_out)) if left_out else documents


def _texts(config: DataConfig, path: str, origin: str) -> Documents[str]:
    directory = cache_directory(config.cache_directory)
    return texts_in(path, config.text_feature, config.invalid_utf8, origin, directory)


def _mixed(config: DataConfig) -> Documents[str]:
    """Returns the texts of all sources, one source after the other, but for blank ones."""
    directory = cache_directory(config.cache_directory)
    texts, names, sources = Spool(directory), Spool(directory), dict[str, int]()
    counts, left_out = Counter[str](), Counter[str]()
    for name, path in parse_sources(config.sources).items():
        found, first = _texts(config, path, f"data.sources {name}"), len(texts)
        for text, where in zip(found.train, found.names or (), strict=True):
            if not text or text.isspace():
                left_out[BLANK] += 1
                continue
            texts.append(text)
            names.append(f"{name}: {where}")
        sources[name] = len(texts) - first
        left_out.update(found.description.pop("left_out", {}))
        counts.update(found.description)
    description = {**counts, READ_FROM: sources, "left_out": dict(left_out)}
    return Documents(texts, description=description, names=names)


def _held_out(
    path: str, config: DataConfig, origin: str, left_out: Counter[str]
) -> Sequence[str] | None:
    """Returns the texts of a path that are not blank; adds to `left_out` what it leaves out."""
    if not path:
        return None
    documents = _texts(config, path, origin)
    left_out.update(documents.description.get("left_out", {}))
    found = documents.train
    kept = [number for number, text in enumerate(found) if text and not text.isspace()]
    if not kept:
        raise UserError(f"{origin} {path!r} holds no text")
    return Selected(found, kept)


def _held_out_split(
    split: str, config: DataConfig, left_out: Counter[str]
) -> tuple[Sequence[str] | None, dict[str, dict[str, int]]]:
    """Returns the texts of a split, one source after the other, and notes how many each has."""
    field = f"{split}_path"
    by_source = config.paths_by_source(field)
    if not by_source:
        return _held_out(getattr(config, field), config, f"data.{field}", left_out), {}
    texts, counts = Spool(cache_directory(config.cache_directory)), dict[str, int]()
    for name, path in by_source.items():
        found = _held_out(path, config, f"data.{field} {name}", left_out)
        assert found is not None, "the path of a source is not empty"
        for text in found:
            texts.append(text)
        counts[name] = len(found)
    return texts, {SOURCES[split]: counts}


def texts_in(
    pattern: str,
    text_feature: str = "",
    on_bad_text: str = "refuse",
    origin: str = "data.path",
    directory: Path | None = None,
) -> Documents[str]:
    """Returns the texts of a file, a directory, a pattern or a URL, as `read_files` does.

    Args:
      on_bad_text: a key of `utf8.INVALID_UTF8`.
      origin: what gives the pattern, for messages.
      directory: on whose disk the texts are kept; None: that of temporary files.

    Raises:
      UserError: as `read_files`.
    """
    counts, texts, names = Counts(), Spool(directory), Spool(directory)
    stream = stream_texts(pattern, text_feature, on_bad_text, origin=origin, counts=counts)
    with progress() as show:
        for found in stream:
            show(f"reading {pattern}", counts.files - 1, counts.all_files)
            texts.append(found.text)
            names.append(found.name)
    return Documents(texts, description=counts.description(), names=names)


def read_tfds(config: DataConfig) -> Documents[str]:
    """Returns the train and validation splits of a data set of tensorflow-datasets.

    The test split is that of the data set `config.test_path`, if it is given.

    Raises:
      UserError: it cannot be had, or it has no text of that name, or no test split.
    """
    builder = tfds.builder_of(config.path, config.cache_directory)
    feature = _text_feature(config, builder.info.features)

    def texts(source: Iterable[Mapping[str, str | bytes]]) -> list[str]:
        return [tfds.text(example[feature]) for example in source]

    splits = tfds.splits(builder, config)
    return Documents(
        texts(splits["train"]),
        texts(splits["validation"]) if "validation" in splits else None,
        {"data_set": builder.info.full_name, "text_feature": feature},
        test=texts(splits["test"]) if "test" in splits else None,
    )


def _text_feature(config: DataConfig, features: Mapping[str, object]) -> str:
    names = tfds.text_features(features)
    if config.text_feature:
        if config.text_feature not in names:
            raise UserError(
                f"data.text_feature {config.text_feature!r} is no text of {config.path}; "
                f"it has {', '.join(names) or 'none'}"
            )
        return config.text_feature
    if len(names) != 1:
        raise UserError(
            f"{config.path} has {len(names)} text features ({', '.join(names)}); "
            "choose one with data.text_feature"
        )
    return names[0]


def read_tokens(config: DataConfig) -> Documents[str]:
    """Refuses: token files are no texts, and `text/token_data.py` makes a data set of them."""
    raise UserError(f"data.source={config.source} holds tokens; expected texts")


TOKENS = "tokens"  # a source whose files hold tokens
READERS_WITHOUT_PATH: dict[str, Reader] = {"embedded": read_embedded, "stdlib": read_stdlib}
READERS_OF_PATHS: dict[str, Reader] = {
    "files": read_files,
    "tfds": read_tfds,
    TOKENS: read_tokens,
}
READERS = READERS_WITHOUT_PATH | READERS_OF_PATHS
