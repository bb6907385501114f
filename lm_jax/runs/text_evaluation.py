"""The loss of each document of a set of texts, in parts that are kept: an evaluation resumes."""

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

from lm_jax import data
from lm_jax.atomic_files import open_atomically, open_to_append
from lm_jax.build import BuiltExperiment, sum_documents
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.data import TokenizedDocuments, Tokenizer
from lm_jax.errors import UserError, names_path
from lm_jax.evaluation.loss_sums import DocumentSums, MeasuredFunction, MeasuredLosses
from lm_jax.evaluation.paired_difference import PairedDifference, paired_difference
from lm_jax.json_values import fits, parse
from lm_jax.models.interface import Batch, Variables
from lm_jax.progress import Show

_PART = 2**18  # characters of whole documents that are measured together, at least
_ROWS = (
    "nats",
    "correct",
    "tokens",  # targets
    "characters",
    "bytes",
    "words",
    "pieces",  # between white space, empty ones at the ends included
)


class TextModel(NamedTuple):
    """What measures texts: a built experiment, its loss compiled once, and its tokenizer."""

    name: str
    built: BuiltExperiment
    losses: MeasuredFunction
    variables: Variables
    tokenizer: Tokenizer


def losses_behind_opening(losses: MeasuredFunction, tokenizer: Tokenizer) -> MeasuredFunction:
    """Returns a function of the losses of texts that `tokenizer.beginning` opens.

    The data have the end of the document before there, which no text is encoded with.
    """
    if tokenizer.opening is None:
        return losses
    end, beginning = tokenizer.end_of_document, tokenizer.beginning

    @jax.jit
    def measure(variables: Variables, batch: Batch) -> MeasuredLosses:
        inputs_bt = jnp.where(batch["inputs"] == end, beginning, batch["inputs"])
        return losses(variables, {**batch, "inputs": inputs_bt})

    return measure


class TextSums(NamedTuple):
    """Sums and sizes of each document of a set."""

    table: np.ndarray  # float64 [7, D], the rows of `_ROWS`
    named: Mapping[str, float]  # mean auxiliary losses and metrics

    def of(self, name: str) -> np.ndarray:
        """Returns a row of the table, float64 [D]."""
        return self.table[_ROWS.index(name)]

    def joined(self, other: "TextSums") -> "TextSums":
        """Returns the sums of these documents and those after them."""
        before, after = (sums.of("tokens").sum() for sums in (self, other))
        share = before / max(before + after, 1)
        named = {n: share * self.named[n] + (1 - share) * other.named[n] for n in self.named}
        return TextSums(np.concatenate([self.table, other.table], axis=1), named)


class Kept:
    """Parts that are measured, in a file: what was stopped goes on after them."""

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        """Reads the parts of an earlier evaluation of the same identity, or begins a new file."""
        self._path = path
        self._parts: dict[str, list[Any]] = {}
        head = json.dumps(identity, sort_keys=True)
        lines = _lines(path)
        if lines[:1] == [head]:
            for line in lines[1:]:
                digest, _, text = line.partition(" ")
                if digest != _digest(text):  # of a killed process, or damaged
                    break
                part = parse(text)
                if not _is_part(part):
                    break
                self._parts |= part
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(path) as file:
            file.write(head + "\n")
            for key, part in self._parts.items():
                file.write(kept_line(key, part))
        self._file: TextIO = open_to_append(path)

    def get(self, key: str) -> TextSums | None:
        """Returns a part, None where it is not measured yet."""
        part = self._parts.get(key)
        return None if part is None else TextSums(np.array(part[0], np.float64), part[1])

    def add(self, key: str, sums: TextSums) -> None:
        """Writes a part. Raises OSError, which names the file."""
        with names_path(self._path):
            self._file.write(kept_line(key, [sums.table.tolist(), dict(sums.named)]))
            self._file.flush()

    def remove(self) -> None:
        """Removes the file: all is measured and written elsewhere."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def kept_line(key: str, part: list[Any]) -> str:
    """Returns a part as JSON behind its digest: another digit would be another loss."""
    text = json.dumps({key: part})
    return f"{_digest(text)} {text}\n"


def _digest(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8", "replace"))


def _is_part(value: Any) -> bool:
    """Returns whether a line of `Kept` is a table with a row for each of `_ROWS`, and means."""
    if not fits(value, dict[str, tuple[list[list[float]], dict[str, float]]]):
        return False
    tables = [table for table, _ in value.values()]
    return all(len(t) == len(_ROWS) and len(set(map(len, t))) == 1 for t in tables)


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", "replace").splitlines() if path.is_file() else []


def fingerprint(texts: Mapping[str, Sequence[str]]) -> str:
    """Returns a SHA-256 of sets of texts, their names and their order."""
    digest = hashlib.sha256()
    for name, documents in texts.items():
        digest.update(json.dumps([name, len(documents)]).encode())
        for text in documents:
            digest.update(f"{len(text)}:".encode() + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def sum_texts(
    model: TextModel,
    name: str,
    documents: Sequence[str],
    eval_config: EvaluationConfig,
    kept: Kept | None = None,
    show: Show | None = None,
) -> TextSums:
    """Returns the sums of each document of a set.

    Args:
      name: of the set, for messages and for `kept`.
      kept: where parts that are measured are written, and read instead of measured again.
      show: called with the progress.

    Raises:
      UserError: a text cannot be encoded, or nothing is to be predicted in the whole set.
    """
    found: TextSums | None = None
    for first, part in _parts(documents):
        key = f"{model.name}\t{name}\t{first}"
        sums = kept.get(key) if kept else None
        if sums is None:
            sums = _measure(model, part, eval_config)
            if kept:
                kept.add(key, sums)
        found = found.joined(sums) if found else sums
        if show:
            show(f"documents of {name}, {model.name}", first + len(part), len(documents))
    if found is None or not found.of("tokens").sum():
        raise UserError(f"{name}: no document holds any text that can be predicted")
    return found


def _parts(documents: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    first, part, size = 0, list[str](), 0
    for text in documents:
        part.append(text)
        size += len(text)
        if size >= _PART:
            yield first, part
            first, part, size = first + len(part), [], 0
    if part:
        yield first, part


def _measure(model: TextModel, texts: Sequence[str], eval_config: EvaluationConfig) -> TextSums:
    split = data.tokenize(model.tokenizer, texts)
    sums = sum_documents(model.built, model.losses, model.variables, split, eval_config)
    pieces = [len(re.split(r"\s+", text)) for text in texts]
    losses, sizes = (sums.nats, sums.correct, sums.tokens), (split.characters, split.bytes)
    rows = [*losses, *sizes, split.words, pieces]
    return TextSums(np.array(rows, np.float64), sums.named)


def measures_of_texts(
    model: TextModel, sums: TextSums, eval_config: EvaluationConfig
) -> dict[str, Any]:
    """Returns the measures of a set of texts, as those of a split.

    With rolling windows they have `harness`: what lm-evaluation-harness reports of these texts.
    """
    nats, correct, tokens, *sizes, _ = sums.table
    nothing = np.zeros(0, np.int32), np.zeros(len(nats) + 1, np.int64)
    split = TokenizedDocuments(*nothing, *(size.astype(np.int64) for size in sizes))
    totals = DocumentSums(nats, correct, tokens, sums.named)
    found = model.built.objective.measures(totals, split, model.tokenizer)
    if eval_config.windows == "rolling":
        found["harness"] = harness_measures(sums)
    return found


def harness_measures(sums: TextSums) -> dict[str, float]:
    """Returns the figures of lm-evaluation-harness, by its names and with its count of words."""
    nats, size, pieces = (float(sums.of(name).sum()) for name in ("nats", "bytes", "pieces"))
    return {
        "word_perplexity": _exp(nats / pieces),
        "byte_perplexity": _exp(nats / size),
        "bits_per_byte": nats / size / math.log(2),
    }


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def difference_of(first: TextSums, second: TextSums) -> PairedDifference | None:
    """Returns bits per character of the first model minus those of the second, paired.

    None for fewer than two documents.
    """
    characters = first.of("characters")
    has_text = characters > 0
    one, other = (sums.of("nats")[has_text] / math.log(2) for sums in (first, second))
    return paired_difference(one, other, characters[has_text])


def write_documents(
    path: Path,
    names: Mapping[str, Sequence[str]],
    sums: Mapping[str, Mapping[str, TextSums]],
) -> None:
    """Writes a CSV with one line per document.

    Args:
      names: of the documents, by set.
      sums: by model and set; the columns of a second model end in its name.

    Raises:
      OSError: the file cannot be written.
    """
    models = list(sums)
    own = ("tokens", "nats", "bits_per_character", "bits_per_byte", "accuracy")
    head = ["text", "document", "characters", "bytes", "words"]
    for model in models:
        head += own if model == models[0] else [f"{name}_{model}" for name in own]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path, newline="") as file:
        table = csv.writer(file)
        table.writerow(head)
        for name, documents in names.items():
            first = sums[models[0]][name]
            sizes = [first.of(size) for size in ("characters", "bytes", "words")]
            for number, document in enumerate(documents):
                row: list[Any] = [name, document, *(int(size[number]) for size in sizes)]
                for model in models:
                    row += _cells(sums[model][name].table[:, number].tolist())
                table.writerow(row)


def _cells(column: Sequence[float]) -> list[Any]:
    nats, correct, tokens, characters, size, *_ = column
    bits = nats / math.log(2)
    ratios = ((bits, characters), (bits, size), (correct, tokens))
    return [int(tokens), nats, *(value / count if count else "" for value, count in ratios)]
