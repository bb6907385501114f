"""Reader -> documents -> stages -> tokens on disk: one pipeline for every kind of text.

What a kind of text decides is a `TextKind`: its readers, its stages and its splits. All else is the
same for all: the key under which tokens are cached, and the description that a run records.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from lm_jax.choices import choose
from lm_jax.data.cache import (
    DESCRIPTION,
    cache_directory,
    cached,
    load_split,
    mapped_files,
    refuse_damage,
    save_split,
)
from lm_jax.data.dataset import Dataset
from lm_jax.data.documents import BLANK, READ_FROM, SOURCES, Documents
from lm_jax.data.spool import Selected, utf8_parts
from lm_jax.data.tokenizers import Tokenizer, identity, load_tokenizer, train_tokenizer
from lm_jax.data.unchanged_files import Memory, Prepared, memory_of
from lm_jax.errors import UserError
from lm_jax.json_values import read_object
from lm_jax.plurals import counted

if TYPE_CHECKING:  # it imports the kinds of text
    from lm_jax.data.tokenizer_config import TokenizerConfig

_FORMAT = 3  # raise it when the cached files change meaning; the data of runs before is new then
_DESCRIPTION = 3  # raise it when descriptions say more; what is cached is made again then, equal


class TextConfig(Protocol):
    """What the configurations of all kinds of text have."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    of_batches: ClassVar[tuple[str, ...]]
    source: str
    test_path: str
    cache_directory: str
    tokenizer: "TokenizerConfig"

    @property
    def origin(self) -> str: ...

    @property
    def files_read(self) -> tuple[str, ...] | None: ...

    def validate(self) -> None: ...


NAMED = {"held_out_documents", "repeated_documents"}
"""Notes of stages that hold `names` of documents; at most `FEW` of them."""

FEW = 3

T = TypeVar("T")  # of a document
C = TypeVar("C", bound=TextConfig)
S = TypeVar("S")  # of a split


class TextKind(NamedTuple, Generic[T, C, S]):
    """How one kind of text becomes a data set; configurations are those of the kind."""

    readers: Mapping[str, Callable[[C], Documents[T]]]
    strings: Callable[[T], tuple[str, ...]]
    """All that a document says, for the cache's key."""

    stages: tuple[Callable[[Documents[T], C], Documents[T]], ...]
    """They clean, hold out a validation split and check it, in this order."""

    texts: Callable[[Sequence[T], C], Iterable[str]]
    """(training documents, configuration) -> the texts that the tokenizer is trained on."""

    split: type[S]
    """NamedTuple of a tokenized split."""

    tokenized: Callable[[Sequence[T], Documents[T], C, Tokenizer], S]
    """(documents of a split, all of them, configuration, tokenizer) -> the split."""

    fingerprint: Callable[[Documents[T], C, str, str], tuple[str, str]]
    """(documents, configuration, SHA-256 of what was read, cache key) -> SHA-256 of the data and
    the fingerprint by which a run recognises it. Runs made before must recognise theirs."""

    counts: Callable[[Documents[T], Mapping[str, S]], dict[str, dict[str, int]]]
    """(documents, tokenized splits by name) -> sizes of each split for people."""

    summary: Callable[[dict[str, Any]], str]
    """The description in one line."""

    not_in_key: tuple[str, ...]
    """Fields that the cache's key leaves out: the digest of the documents stands for them, and
    runs made before they existed find their data."""


def prepare_text(kind: TextKind[T, C, S], config: C) -> Dataset[S, Tokenizer]:
    """Returns the data set of a configuration, from the cache if it was prepared before.

    The cache is addressed by the documents that were read and by all that decides what becomes of
    them; where they were read from does not matter.

    Raises:
      UserError: the documents cannot be had, or a split or the tokenizer cannot be made of them;
        nothing is cached then.
      OSError: the cache directory cannot be written.
    """
    config.validate()
    root = cache_directory(config.cache_directory)
    memory = None
    if config.files_read is not None:
        memory = memory_of(config.files_read, _choices(config), root)
    if memory and (known := recalled(memory, kind.split, root)):
        return known
    documents = _read(kind, config)
    digest = _sha256(kind, documents)
    key = _cache_key(kind, config, digest)
    dataset = cached(
        root / key,
        lambda: _make(kind, config, documents, digest, key),
        write_dataset,
        lambda directory: load_dataset(kind.split, directory),
    )
    # Equal documents share a cache, wherever they come from this time and whatever their names.
    here = {"path": config.origin, **documents.description}
    description = dataset.description | here
    for name in NAMED & description.keys():
        description[name] = [_name(documents, int(number)) for number in description[name]]
    description["summary"] = kind.summary(description) + _left_out(description["left_out"])
    if memory:
        memory.keep(Prepared(key, description))
    return dataset._replace(description=description)


def _name(documents: Documents[T], number: int) -> str:
    return documents.names[number] if documents.names else f"document {number + 1}"


def _left_out(counts: Mapping[str, int]) -> str:
    found = [counted(count, _singular(what), what) for what, count in counts.items() if count]
    return f"; not read: {', '.join(found)}" if found else ""


def _singular(what: str) -> str:
    """Returns a key of `left_out` for a single one: pairs that are long -> pair that is long."""
    single = re.sub(r"(?<=[a-z])s\b", "", what, count=1)
    return single.replace(" are ", " is ").replace(" have ", " has ")


def _read(kind: TextKind[T, C, S], config: C) -> Documents[T]:
    """Returns what the reader returns, without blank documents, which are counted."""
    documents = choose(kind.readers, config.source, "data.source")(config)
    if not isinstance(documents, Documents):
        raise UserError(
            f"data.source {config.source!r} returned {type(documents).__name__}; "
            "expected lm_jax.data.Documents"
        )
    for name in ("train", "validation", "test"):
        part = getattr(documents, name)
        is_list = isinstance(part, Sized) and not isinstance(part, str | bytes)
        if part is not None and not is_list:  # a str would be a document of each character
            raise UserError(
                f"data.source {config.source!r} returned Documents whose {name} is a "
                f"{type(part).__name__}; expected a list of documents"
            )
    kept = [
        number
        for number, document in enumerate(documents.train)
        if any(_holds_text(_check(text, config)) for text in kind.strings(document))
    ]
    for document in documents.test or ():
        for text in kind.strings(document):
            _check(text, config)
    if not kept:
        raise UserError(
            f"the corpus {config.origin or config.source} is empty: no document holds any text"
        )
    if documents.test is not None and not documents.test:
        raise UserError(f"data.test_path {config.test_path!r} holds no text; leave it empty")
    blank = len(documents.train) - len(kept)
    left_out = dict(documents.description.get("left_out", {}))
    left_out[BLANK] = left_out.get(BLANK, 0) + blank
    return replace(
        documents,
        train=Selected(documents.train, kept),
        names=None if documents.names is None else Selected(documents.names, kept),
    ).noting(left_out=left_out)


def _holds_text(text: str) -> bool:
    return bool(text) and not text.isspace()


def _check(text: Any, config: TextConfig) -> str:
    if not isinstance(text, str):
        raise UserError(
            f"data.source {config.source!r} returned a document of {type(text).__name__} "
            f"({text!r:.40}); expected text"
        )
    return text


def _sha256(kind: TextKind[T, C, S], documents: Documents[T]) -> str:
    """Returns the digest of all documents, each told from the next."""
    digest = hashlib.sha256()

    def update(texts: Iterable[str]) -> None:
        for text in texts:
            size = sum(map(len, utf8_parts(text)))
            digest.update(size.to_bytes(8, "little"))
            for raw in utf8_parts(text):
                digest.update(raw)

    for document in documents.train:
        update(kind.strings(document))
    update([""])
    for document in documents.validation or []:
        update(kind.strings(document))
    if documents.test is not None:  # else the digest is that of runs made before
        digest.update(b"\xff" * 8)  # the length of no text
        for document in documents.test:
            update(kind.strings(document))
    if READ_FROM in documents.description:
        digest.update(json.dumps(documents.description[READ_FROM]).encode())
    if tested := documents.description.get(SOURCES["test"]):
        digest.update(json.dumps(tested).encode())
    return digest.hexdigest()


def _choices(config: TextConfig) -> dict[str, Any]:
    """Returns all fields that decide what the data is."""
    choices = asdict(config) | {"format": _FORMAT, "tokenizer": identity(config.tokenizer)}
    return {name: value for name, value in choices.items() if name not in config.of_batches}


def _cache_key(kind: TextKind[T, C, S], config: C, digest: str) -> str:
    """Returns the key of a configuration and the digest of what it reads: 32 hex digits."""
    choices = _choices(config) | {"path": "", "cache_directory": ""}
    for name in kind.not_in_key:
        del choices[name]
    return hashlib.sha256(json.dumps([digest, choices], sort_keys=True).encode()).hexdigest()[:32]


def _make(
    kind: TextKind[T, C, S], config: C, documents: Documents[T], digest: str, key: str
) -> Dataset[S, Tokenizer]:
    # In the cache, documents are named by their number among those that were read.
    documents = replace(documents, names=[str(n) for n in range(len(documents.train))])
    for stage in kind.stages:
        documents = stage(documents, config)
    held_out = documents.validation
    assert held_out is not None, "the stages of a kind hold out a validation split"
    tokenizer = train_tokenizer(config.tokenizer, kind.texts(documents.train, config))
    parts = {"train": documents.train, "validation": held_out}
    if documents.test is not None:
        parts["test"] = documents.test
    splits = {
        name: kind.tokenized(part, documents, config, tokenizer) for name, part in parts.items()
    }
    sha256, fingerprint = kind.fingerprint(documents, config, digest, key)
    sizes = {"vocab_size": tokenizer.vocab_size}
    if "labels" in documents.description:
        sizes["num_classes"] = len(documents.description["labels"])
    description: dict[str, Any] = {
        "source": config.source,
        "path": config.origin,
        "sha256": sha256,
        "fingerprint": fingerprint,
        **documents.description,
        "sizes": sizes,
        **kind.counts(documents, splits),
    }
    return Dataset(description=description, tokenizer=tokenizer, files=None, **splits)


def recalled(memory: Memory, split: type[S], root: Path) -> Dataset[S, Tokenizer] | None:
    """Returns what was prepared from files that did not change; None: it has to be made."""
    prepared = memory.recall()
    if prepared is None:
        return None
    try:
        found = load_dataset(split, root / prepared.key)
    except (OSError, EOFError, ValueError):
        return None
    return found._replace(description=prepared.description)


def write_dataset(dataset: Dataset[Any, Tokenizer], directory: Path) -> None:
    """Writes what `load_dataset` reads.

    Raises:
      OSError: it cannot be written.
    """
    dataset.tokenizer.save(directory / "tokenizer")
    for name, split in dataset.splits.items():
        save_split(split, directory, name)
    description = {"version": _DESCRIPTION, **dataset.description}
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load_dataset(split: type[S], directory: Path) -> Dataset[S, Tokenizer]:
    """Returns the data set in a directory, its arrays mapped into memory.

    Raises:
      OSError, ValueError: a file is missing or damaged, or of an earlier version.
    """
    files = mapped_files(directory)
    refuse_damage(directory)
    description = read_object(directory / DESCRIPTION)
    if description.pop("version", 1) != _DESCRIPTION:
        raise ValueError("made before descriptions said what this version says")
    names = [name for name in ("train", "validation", "test") if name in description]
    splits = {name: load_split(split, directory, name) for name in names}
    tokenizer = load_tokenizer(directory / "tokenizer")
    return Dataset(description=description, tokenizer=tokenizer, files=files, **splits)
