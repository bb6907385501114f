"""Readers of pairs of texts: aligned files, tabs, JSONL, gettext catalogues, tfds, made-up symbols.

As readers of plain text (`lm_jax.data.readers`), but of `Documents[Pair]`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lm_jax.data import tfds
from lm_jax.data.content import read_lines, read_text
from lm_jax.data.documents import Documents
from lm_jax.data.files import find_files, format_suffix
from lm_jax.data.records import Record, records_of, text_field
from lm_jax.data.seq2seq.synthetic import TASKS, made_pairs
from lm_jax.errors import UserError
from lm_jax.plurals import counted

if TYPE_CHECKING:
    from lm_jax.data.seq2seq.config import ParallelTextConfig


class Pair(NamedTuple):
    """A source, its target, and where both were found."""

    source: str
    target: str
    document: str  # "": not named
    origin: str  # path:line, or what else finds the pair again
    task: int = 0


Reader = Callable[["ParallelTextConfig"], Documents[Pair]]


def read_files(config: ParallelTextConfig) -> Documents[Pair]:
    """Returns the pairs of `config.path`, or of the files of `config.tasks`.

    Raises:
      UserError: files are missing, unequal in lines, or hold a line that is no pair.
    """
    left_out: Counter[str] = Counter()
    if config.tasks:
        paths = parse_tasks(config.tasks).values()
        found = [list(_pairs(path, left_out)) for path in paths]
        train = [pair._replace(task=n) for n, pairs in enumerate(found) for pair in pairs]
        return Documents(train, description={"left_out": left_out})
    train = list(_pairs(config.path, left_out, config.target_path))
    held_out, test = (
        list(_pairs(path, left_out, target_path, origin)) if path else None
        for path, target_path, origin in (
            (config.validation_path, config.validation_target_path, "data.validation_path"),
            (config.test_path, config.test_target_path, "data.test_path"),
        )
    )
    return Documents(train, held_out, {"left_out": left_out}, test=test)


def read_tfds(config: ParallelTextConfig) -> Documents[Pair]:
    """Returns the train and validation splits of a translation set of tensorflow-datasets.

    The test split is that of the data set `config.test_path`, if it is given.

    Raises:
      UserError: it cannot be had, or has other features than two texts, or no test split.
    """
    builder = tfds.builder_of(config.path, config.cache_directory)
    features = builder.info.features
    languages = tfds.text_features(features)
    if len(languages) != 2:
        raise UserError(f"{config.path} has {', '.join(features)}; expected two texts")
    source = config.source_language or languages[0]
    if source not in languages:
        raise UserError(
            f"data.source_language {source!r} is none of {config.path}; "
            f"it has {' and '.join(languages)}"
        )
    target = languages[1 - languages.index(source)]
    left_out: Counter[str] = Counter()

    splits = tfds.splits(builder, config)

    def read(split: str) -> list[Pair] | None:
        if split not in splits:
            return None
        pairs = []
        for number, example in enumerate(splits[split], 1):
            texts = [tfds.text(example[language]).strip() for language in (source, target)]
            if all(texts):
                pairs.append(Pair(texts[0], texts[1], "", f"{config.path} {split} {number}"))
            else:  # such sets hold a few empty sentences, which no reader can correct
                left_out["pairs with an empty side"] += 1
        return pairs

    train, held_out, test = (read(split) for split in ("train", "validation", "test"))
    return Documents(train or [], held_out, {"left_out": left_out}, test=test)


def read_symbols(config: ParallelTextConfig) -> Documents[Pair]:
    """Returns made-up sequences for the task that `config.source` names.

    Raises:
      UserError: no new sequences are left to validate.
    """
    train, held_out = (
        [Pair(*texts, "", f"{config.source} {n}") for n, texts in enumerate(split, 1)]
        for split in made_pairs(config.source, config.symbols)
    )
    return Documents(train, held_out)


READERS: dict[str, Reader] = {
    "files": read_files,
    "tfds": read_tfds,
    **dict.fromkeys(TASKS, read_symbols),
}


def parse_tasks(tasks: str) -> dict[str, str]:
    """Returns the path of each instruction, from "instruction=path; instruction=path".

    Raises:
      UserError: a part has another form, or an instruction occurs twice.
    """
    found: dict[str, str] = {}
    for part in filter(str.strip, tasks.split(";")):
        instruction, equals, path = (text.strip() for text in part.partition("="))
        if not equals or not instruction or not path:
            raise UserError(
                f'data.tasks holds {part.strip()!r}; expected "instruction=path; instruction=path"'
            )
        if instruction in found:
            raise UserError(f"data.tasks gives the instruction {instruction!r} twice")
        found[instruction] = path
    return found


def _pairs(
    path: str, left_out: Counter[str], target_path: str = "", origin: str = "data.path"
) -> Iterator[Pair]:
    """Yields the pairs of a path; counts in `left_out` what its files hold besides."""
    if target_path:
        yield from _aligned(Path(path), Path(target_path))
        return
    for file in find_files(path, origin):
        yield from _PARSERS.get(format_suffix(file), _records_or_tabs)(file, left_out)


def _aligned(source_path: Path, target_path: Path) -> Iterator[Pair]:
    for path in (source_path, target_path):
        if not path.is_file():
            raise UserError(f"{path} is no file; aligned lines are read from two files")
    sources, targets = read_lines(source_path), read_lines(target_path)
    if len(sources) != len(targets):
        raise UserError(
            f"{source_path} has {counted(len(sources), 'line')} and {target_path} "
            f"{len(targets):,}; line n of one is the translation of line n of the other, so make "
            "them equally many"
        )
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        for path, text in ((source_path, source), (target_path, target)):
            if not text.strip():
                raise UserError(f"{path}:{number} is empty; remove line {number} of both files")
        yield Pair(source.strip(), target.strip(), "", f"{source_path}:{number}")


def _records_or_tabs(path: Path, left_out: Counter[str]) -> Iterator[Pair]:
    records = records_of(path, ("source", "target"), optional=("document",))
    yield from _tabs(path) if records is None else map(_of_record, records)


def _of_record(record: Record) -> Pair:
    source, target = (text_field(record, field).strip() for field in ("source", "target"))
    if not source or not target:
        raise UserError(f"{record.origin}: the {'target' if source else 'source'} is empty")
    return Pair(source, target, str(record.values.get("document", "")), record.origin)


def _tabs(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(read_lines(path), 1):
        columns = [column.strip() for column in line.split("\t")]
        if not 2 <= len(columns) <= 3 or not columns[0] or not columns[1]:
            given = f"{line[:60]!r} is not" if line.strip() else "is empty, not"
            raise UserError(
                f"{path}:{number}: {given} source<TAB>target or source<TAB>target<TAB>document"
            )
        source, target, document = [*columns, ""][:3]
        yield Pair(source, target, document, f"{path}:{number}")


def _catalogue(path: Path, left_out: Counter[str]) -> Iterator[Pair]:
    """Yields the translated messages of a gettext catalogue, which is one document.

    Fuzzy and obsolete messages are left out; a message with plural forms gives its first one.
    """
    try:
        import polib
    except ImportError:
        raise UserError("gettext catalogues need polib; pip install -e '.[po]'") from None

    try:
        # A line end, since polib takes a text that is the path of a file for that path.
        entries = polib.pofile(read_text(path) + "\n")
    except OSError as error:  # polib raises it for bad syntax as well
        raise UserError(f"{path} is no gettext catalogue: {error}") from None
    for entry in entries:
        target = entry.msgstr_plural.get(0, "") if entry.msgid_plural else entry.msgstr
        what = "fuzzy" if entry.fuzzy else "obsolete" if entry.obsolete else "untranslated"
        if what != "untranslated" or not entry.msgid.strip() or not target.strip():
            left_out[f"{what} messages"] += 1
            continue
        # Only the end of its path, so that the split does not depend on how the path was given.
        document = "/".join(path.resolve().parts[-3:])
        yield Pair(entry.msgid.strip(), target.strip(), document, f"{path}:{entry.linenum}")


_PARSERS = {".po": _catalogue}  # by suffix; all other files hold records or tabs
