"""What a preparation removed, by rule, with examples to read; JSON that a page is made from."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any

from lm_jax.data.preparation.config import PreparationConfig, names_in
from lm_jax.data.preparation.documents import read_tallies

_SUMS = ("documents", "characters", "bytes")


def collect(config: PreparationConfig, directory: Path) -> dict[str, Any]:
    """Returns the statistics of all tasks."""
    counted = ["read", *names_in(config.stages)]
    return {
        "language": config.language,
        "stages": [{"name": name, **_sums(directory, name)} for name in counted],
        "rules": _rules(config, directory),
        "lengths": {
            "read": _lengths(directory, counted[0]),
            "kept": _lengths(directory, counted[-1]),
        },
        "redacted": _redacted(directory),
    }


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


def _dropped(directory: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((directory / "dropped").glob("*/*.jsonl")):
        with path.open("rb") as file:
            yield from map(json.loads, file)


def _rules(config: PreparationConfig, directory: Path) -> list[dict[str, Any]]:
    """Returns documents and characters that each rule dropped, in the order of the stages."""
    documents: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    examples: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for row in _dropped(directory):
        rule = row.pop("rule")
        documents[rule] += 1
        characters[rule] += row["characters"]
        # The smallest hashes are a sample that does not depend on the order of the documents.
        key = hashlib.sha256(row["id"].encode()).hexdigest()
        kept = examples.setdefault(rule, [])
        kept.append((key, row))
        if len(kept) > 10 * config.examples + 100:
            kept[:] = nsmallest(config.examples, kept, key=lambda pair: pair[0])
    order = {name: n for n, name in enumerate(["blank", *names_in(config.stages)])}
    rules = sorted(documents, key=lambda rule: (order[rule.partition(":")[0]], -documents[rule]))
    return [
        {
            "rule": rule,
            "documents": documents[rule],
            "characters": characters[rule],
            "examples": [
                row
                for _, row in nsmallest(config.examples, examples[rule], key=lambda pair: pair[0])
            ],
        }
        for rule in rules
    ]


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
