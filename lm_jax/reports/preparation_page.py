"""The page of a prepared corpus: what each rule removed, with documents to read."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax.data.preparation.config import PreparationConfig
from lm_jax.nested import flatten
from lm_jax.reports.html import render
from lm_jax.reports.numbers import bytes_of, text_of
from lm_jax.telemetry.json_files import write_text

_ALWAYS_SHOWN = ("path", "language", "stages", "tasks")


def stage_table(statistics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns a head and rows of what is left after each stage, with the share of all that is."""
    rows: list[tuple[str, ...]] = [("after", "documents", "characters", "share of characters")]
    first = statistics["stages"][0]["characters"] or 1
    for stage in statistics["stages"]:
        share = f"{stage['characters'] / first:.1%}"
        rows.append((stage["name"], f"{stage['documents']:,}", f"{stage['characters']:,}", share))
    return rows


def write_page(statistics: dict[str, Any], manifest: dict[str, Any], path: Path) -> None:
    """Writes the page of a preparation."""
    first, last = statistics["stages"][0], statistics["stages"][-1]
    headline = [
        (f"{last['documents']:,}", f"documents of {first['documents']:,}"),
        (f"{last['characters']:,}", f"characters of {first['characters']:,}"),
        (bytes_of(last["bytes"]), "of UTF-8 text"),
        (
            f"{sum(statistics['redacted']['kinds'].values()):,}",
            "placeholders for personal data and secrets",
        ),
    ]
    changed, defaults = _by_change(manifest["configuration"])
    page = render(
        "preparation.html",
        title="Corpus",
        headline=headline,
        stages=stage_table(statistics),
        left_out=[(name, f"{count:,}") for name, count in statistics["left_out"].items()],
        rules=statistics["rules"],
        documents_read=first["documents"] or 1,
        lengths=_lengths(statistics["lengths"]),
        redacted=statistics["redacted"],
        languages=[(name, f"{count:,}") for name, count in statistics["languages"].items()][:30],
        cluster_sizes=_cluster_sizes(statistics["clusters"]["sizes"]),
        clusters=statistics["clusters"]["examples"],
        files=[
            (
                file["name"],
                f"{file['documents']:,}",
                f"{file['characters']:,}",
                f"{file['size']:,}",
                file["sha256"][:16],
            )
            for file in manifest["files"]
        ],
        changed=changed,
        defaults=defaults,
        versions=sorted(manifest["versions"].items()),
    )
    write_text(path, page)


def _lengths(lengths: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, str, str]]:
    """Returns rows of (length, documents read, documents kept, share kept)."""
    rows = []
    for bound in sorted({*lengths["read"], *lengths["kept"]}, key=int):
        read, kept = lengths["read"].get(bound, 0), lengths["kept"].get(bound, 0)
        span = f"{int(bound) // 2:,} to {int(bound) - 1:,}"
        rows.append((span, f"{read:,}", f"{kept:,}", f"{kept / read:.0%}" if read else ""))
    return rows


def _cluster_sizes(sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    """Returns rows of (documents of a cluster, clusters): 2, 3, and by powers of two from 4 on."""
    counts: Counter[int] = Counter()
    for size, count in sizes.items():
        counts[int(size) if int(size) < 4 else 1 << int(size).bit_length() - 1] += count
    return [
        (f"{first:,}" if first < 4 else f"{first:,} to {2 * first - 1:,}", f"{counts[first]:,}")
        for first in sorted(counts)
    ]


def _by_change(
    configuration: Mapping[str, Any],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Returns the fields that differ from their defaults or are always shown, and the others."""
    defaults = flatten(dataclasses.asdict(PreparationConfig()))
    changed: list[tuple[str, str]] = []
    same: list[tuple[str, str]] = []
    for name, value in flatten(configuration).items():
        is_default = name in defaults and defaults[name] == value and name not in _ALWAYS_SHOWN
        (same if is_default else changed).append((name, text_of(value)))
    return changed, same
