"""Sources of pairs of texts: aligned files, tabs, JSONL, gettext catalogues, tfds."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lm_jax.data.config import ParallelTextConfig
from lm_jax.data.seq2seq.synthetic import made_pairs
from lm_jax.data.sources import cache_directory, find_files, read_text, tfds_builder_of, tfds_text
from lm_jax.errors import UserError


class Pair(NamedTuple):
    """A source, what it becomes, and where they stood."""

    source: str
    target: str
    document: str  # "": not named
    origin: str  # path:line, or what else finds it again
    task: int = 0


def load_pairs(config: ParallelTextConfig) -> tuple[list[Pair], list[Pair] | None]:
    """All pairs of a configuration, or those to train on and those that the source holds out.

    Raises:
      UserError: files are missing, unequal in lines, or hold a line that is no pair; a data set
        cannot be had.
    """
    if config.is_made:
        train, held_out = (
            [Pair(*texts, "", f"{config.source} {n}") for n, texts in enumerate(split, 1)]
            for split in made_pairs(config.source, config.symbols)
        )
        return train, held_out
    if config.source == "tfds":
        return _tfds(config)
    if config.tasks:
        paths = parse_tasks(config.tasks).values()
        found = [list(_files(path)) for path in paths]
        return [pair._replace(task=n) for n, pairs in enumerate(found) for pair in pairs], None
    train = list(_files(config.path, config.target_path))
    if not config.validation_path:
        return train, None
    return train, list(_files(config.validation_path, config.validation_target_path))


def parse_tasks(tasks: str) -> dict[str, str]:
    """The path of each instruction, from "instruction=path; instruction=path".

    Raises:
      UserError: it is none, or an instruction occurs twice.
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


def _files(path: str, target_path: str = "") -> Iterator[Pair]:
    if target_path:
        yield from _aligned(Path(path), Path(target_path))
        return
    parsers = {".jsonl": _jsonl, ".po": _catalogue}
    for file in find_files(path):
        yield from parsers.get(file.suffix, _tabs)(file)


def _lines(path: Path) -> list[str]:
    text = read_text(path).removeprefix("\ufeff")  # else the mark would be part of a source
    # Unlike with `splitlines`, only ends of lines end a line.
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def _aligned(source_path: Path, target_path: Path) -> Iterator[Pair]:
    for path in (source_path, target_path):
        if not path.is_file():
            raise UserError(f"{path} is no file; aligned lines are read from two files")
    sources, targets = _lines(source_path), _lines(target_path)
    if len(sources) != len(targets):
        raise UserError(
            f"{source_path} has {len(sources):,} lines and {target_path} {len(targets):,}; "
            "line n of one is the translation of line n of the other, so make them equally many"
        )
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        for path, text in ((source_path, source), (target_path, target)):
            if not text.strip():
                raise UserError(f"{path}:{number} is empty; remove line {number} of both files")
        yield Pair(source.strip(), target.strip(), "", f"{source_path}:{number}")


def _tabs(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(_lines(path), 1):
        columns = [column.strip() for column in line.split("\t")]
        if not 2 <= len(columns) <= 3 or not columns[0] or not columns[1]:
            given = f"{line[:60]!r} is not" if line.strip() else "is empty, not"
            raise UserError(
                f"{path}:{number}: {given} source<TAB>target or source<TAB>target<TAB>document"
            )
        source, target, document = [*columns, ""][:3]
        yield Pair(source, target, document, f"{path}:{number}")


def _jsonl(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(_lines(path), 1):
        try:
            values = json.loads(line)
            source, target = values["source"].strip(), values["target"].strip()
            document = str(values.get("document", ""))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            source = target = document = ""
        if not source or not target:
            given = f"{line[:60]!r} is not" if line.strip() else "is empty, not"
            raise UserError(f'{path}:{number}: {given} {{"source": ..., "target": ...}}')
        yield Pair(source, target, document, f"{path}:{number}")


def _catalogue(path: Path) -> Iterator[Pair]:
    """The translated messages of a gettext catalogue, which is one document.

    Neither fuzzy nor obsolete ones; of a message with plural forms the first.
    """
    try:
        import polib
    except ImportError:
        raise UserError("gettext catalogues need polib; pip install -e '.[po]'") from None

    try:
        entries = polib.pofile(read_text(path))
    except OSError as error:  # also polib's word for bad syntax
        raise UserError(f"{path} is no gettext catalogue: {error}") from None
    for entry in entries:
        target = entry.msgstr_plural.get(0, "") if entry.msgid_plural else entry.msgstr
        if entry.fuzzy or entry.obsolete or not entry.msgid.strip() or not target.strip():
            continue
        # The end of its path: the split should not depend on how or where the path was given.
        document = "/".join(path.resolve().parts[-3:])
        yield Pair(entry.msgid.strip(), target.strip(), document, f"{path}:{entry.linenum}")


def _tfds(config: ParallelTextConfig) -> tuple[list[Pair], list[Pair] | None]:
    builder = tfds_builder_of(config.path, cache_directory("") / "tensorflow_datasets")
    features = builder.info.features
    languages = [name for name, feature in features.items() if type(feature).__name__ == "Text"]
    if len(languages) != 2:
        raise UserError(f"{config.path} has {', '.join(features)}; expected two texts")
    source = config.source_language or languages[0]
    if source not in languages:
        raise UserError(
            f"data.source_language {source!r} is none of {config.path}; "
            f"it has {' and '.join(languages)}"
        )
    target = languages[1 - languages.index(source)]

    def read(split: str) -> list[Pair]:
        pairs = []
        for number, example in enumerate(builder.as_data_source(split=split), 1):
            texts = [tfds_text(example[language]).strip() for language in (source, target)]
            if all(texts):  # such sets hold a few empty sentences, which nobody here can mend
                pairs.append(Pair(texts[0], texts[1], "", f"{config.path} {split} {number}"))
        return pairs

    return read("train"), read("validation") if "validation" in builder.info.splits else None
