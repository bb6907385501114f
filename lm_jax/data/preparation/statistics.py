"""What a preparation removed, by rule, with examples to read; JSON that a page is made from."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any

from lm_jax.data.preparation.config import PreparationConfig, names_in
from lm_jax.data.preparation.documents import KEPT, read_tallies
from lm_jax.data.preparation.redaction import redact
from lm_jax.data.preparation.sealed_files import checked_files
from lm_jax.json_values import read_lines_of_json

_SUMS = ("documents", "characters", "bytes")


def collect(config: PreparationConfig, directory: Path) -> dict[str, Any]:
    """Returns the statistics of all tasks."""
    counted = ["read", *names_in(config.stages)]
    found = {
        "language": config.language,
        "stages": [{"name": name, **_sums(directory, name)} for name in counted],
        "rules": _rules(config, directory),
        "lengths": {
            "read": _lengths(directory, counted[0]),
            "kept": _lengths(directory, counted[-1]),
        },
        "left_out": _sum_of(directory, "left_out"),
        "languages": _sum_of(directory, "languages"),
        "clusters": _clusters(config, directory),
        "redacted": _redacted(directory),
    }
    if "redaction" in counted:  # what is shown of dropped documents, too
        for row in _shown(found):
            row["excerpt"], _ = redact(
                row["excerpt"], names_in(config.redaction.kinds), config.language
            )
    return found


def _shown(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the documents that the page shows."""
    for rule in found["rules"]:
        yield from rule["examples"]
    for cluster in found["clusters"]["examples"]:
        yield from cluster


def _sums(directory: Path, name: str) -> dict[str, int]:
    tallies = read_tallies(directory, name)
    return {key: sum(tally.get(key, 0) for tally in tallies) for key in _SUMS}


def _lengths(directory: Path, name: str) -> dict[str, int]:
    """Returns the number of documents by length, in powers of two of characters."""
    total: Counter[int] = Counter()
    for tally in read_tallies(directory, name):
        for bits, count in tally["lengths"].items():
            total[int(bits)] += count
    return {str(2**bits): total[bits] for bits in sorted(total)}


def _dropped(directory: Path, stage: str) -> Iterator[dict[str, Any]]:
    for path in checked_files(directory, directory / "dropped" / stage, "*.jsonl"):
        yield from read_lines_of_json(path)


class _Sample:
    """Rows of different texts, those whose hashes are smallest: their order does not matter."""

    def __init__(self, size: int):
        self.size = size
        self._rows: dict[str, dict[str, Any]] = {}

    def add(self, row: dict[str, Any]) -> None:
        self._rows.setdefault(hashlib.sha256(row["excerpt"].encode()).hexdigest(), row)
        if len(self._rows) > 10 * self.size + 100:
            self._rows = self._smallest()

    def rows(self) -> list[dict[str, Any]]:
        """Returns the sample."""
        return list(self._smallest().values())

    def _smallest(self) -> dict[str, dict[str, Any]]:
        return {key: self._rows[key] for key in nsmallest(self.size, self._rows)}


def _rules(config: PreparationConfig, directory: Path) -> list[dict[str, Any]]:
    """Returns documents and characters that each rule dropped, in the order of the stages."""
    rules = []
    for stage in ["blank", *names_in(config.stages)]:
        documents: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        samples: dict[str, _Sample] = {}
        for row in _dropped(directory, stage):
            rule = row.pop("rule")
            documents[rule] += 1
            characters[rule] += row["characters"]
            samples.setdefault(rule, _Sample(config.examples)).add(row)
        rules += [
            {
                "rule": rule,
                "documents": count,
                "characters": characters[rule],
                "examples": samples[rule].rows(),
            }
            for rule, count in documents.most_common()
        ]
    return rules


def _sum_of(directory: Path, name: str) -> dict[str, int]:
    """Returns the sums of tallies of numbers, the largest first."""
    total: Counter[str] = Counter()
    for tally in read_tallies(directory, name):
        total.update(tally)
    return dict(total.most_common())


def _clusters(config: PreparationConfig, directory: Path) -> dict[str, Any]:
    """Returns the sizes of the clusters of near duplicates, and some clusters to read."""
    sizes: Counter[int] = Counter()
    sample = _Sample(config.examples)
    for row in _dropped(directory, KEPT):
        sizes[row["minhash_cluster_size"]] += 1
        sample.add(row)
    examples = {row["minhash_cluster_id"]: [row] for row in sample.rows()}
    for row in _dropped(directory, "near_duplicates"):
        members = examples.get(row["minhash_cluster_id"], [])
        if 0 < len(members) < 4:
            members.append(row)
    return {
        "sizes": {str(size): sizes[size] for size in sorted(sizes)},
        "examples": list(examples.values()),
    }


def _redacted(directory: Path) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    documents = 0
    for tally in read_tallies(directory, "redacted"):
        kinds.update(tally["kinds"])
        documents += tally["documents"]
        for kind, found in tally["examples"].items():
            examples.setdefault(kind, []).extend(found)
    return {
        "documents": documents,
        "kinds": dict(sorted(kinds.items())),
        "examples": {kind: found[:20] for kind, found in examples.items() if found},
    }
