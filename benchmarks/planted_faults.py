"""Rows of recall and precision of the stages of a preparation, on faults planted in clean text."""

import bisect
import gzip
import json
import random
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_jax.data.preparation.config import (
    DecontaminationConfig,
    FineWebQualityConfig,
    NearDuplicatesConfig,
    PreparationConfig,
)
from lm_jax.data.preparation.prepare import prepare
from lm_jax.data.preparation.redaction import redact

Row = dict[str, Any]
_FINEWEB = FineWebQualityConfig(repeated_characters=0.05)  # as configs/data/english.py
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_UPPER, _DIGITS = _LETTERS.upper(), "0123456789"


def _kept(texts: Sequence[str], **fields: Any) -> dict[int, str]:
    """Returns what a preparation keeps of texts, by their positions."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        raw = directory / "raw.jsonl"
        raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        config = PreparationConfig(path=str(raw), tasks=4, **fields)
        prepare(config, directory / "corpus", 1, lambda *_: None)
        kept = {}
        for path in sorted((directory / "corpus" / "documents").iterdir()):
            for line in gzip.open(path, "rt", encoding="utf-8"):
                row = json.loads(line)
                kept[int(row["id"].rpartition(":")[2]) - 1] = row["text"]
        return kept


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(_LETTERS, k=rng.randint(3, 9)))


def _changed(rng: random.Random, text: str, count: int) -> str:
    words = text.split(" ")
    for n in rng.sample(range(len(words)), min(count, len(words))):
        words[n] = _word(rng)
    return " ".join(words)


def _shingles(text: str, size: int) -> set[tuple[str, ...]]:
    words = re.sub(r"[^\w\s]", " ", re.sub(r"\d+", "0", text.lower())).split()
    return {tuple(words[n : n + size]) for n in range(len(words) - size + 1)}


def _jaccard(a: str, b: str, size: int) -> float:
    ours, theirs = _shingles(a, size), _shingles(b, size)
    return len(ours & theirs) / max(len(ours | theirs), 1)


def _at_similarity(rng: random.Random, text: str, low: float, high: float, size: int) -> str | None:
    """Returns a changed text whose Jaccard similarity is in a range."""
    words = text.split(" ")
    order = rng.sample(range(len(words)), len(words))
    news = [_word(rng) for _ in words]

    def changed(count: int) -> str:
        found = list(words)
        for n in order[:count]:
            found[n] = news[n]
        return " ".join(found)

    # Each further change lowers the similarity.
    first = bisect.bisect_left(
        range(len(words)), True, key=lambda count: _jaccard(text, changed(count), size) < high
    )
    copy = changed(first)
    return copy if low <= _jaccard(text, copy, size) < high else None


def _scores(found: set[int], planted: set[int]) -> Row:
    true = len(found & planted)
    return {
        "planted": len(planted),
        "recall": true / len(planted),
        "precision": true / len(found) if found else 1.0,
    }


def _duplicates(rng: random.Random, clean: list[str]) -> list[Row]:
    copies = [f"\n {text}  \n" for text in rng.sample(clean, 100)]
    similar = [_changed(rng, text, 1) for text in rng.sample(clean, 100)]
    texts = [*clean, *copies, *similar]
    dropped = set(range(len(texts))) - _kept(texts, stages="exact_duplicates").keys()
    # Either of a pair may go: pairs are counted by the position of the copy.
    position = {texts[n].strip(): n for n in range(len(clean), len(clean) + len(copies))}
    found = {position.get(texts[n].strip(), n) for n in dropped}
    planted = set(position.values())
    return [
        {
            "stage": "exact_duplicates",
            "planted as": "copies with other white space",
            "to be mistaken": "100 copies with one other word",
            **_scores(found, planted),
        }
    ]


def near_rows(rng: random.Random, clean: list[str], settings: NearDuplicatesConfig) -> list[Row]:
    """Returns recall of pairs by their kind; each clean document has at most one copy."""
    shuffled = rng.sample(clean, len(clean))
    size = settings.words
    kinds: dict[str, Callable[[str], str | None]] = {
        "5% of words changed": lambda text: _changed(rng, text, round(0.05 * len(text.split(" ")))),
        "Jaccard 0.80 to 0.82": lambda text: _at_similarity(rng, text, 0.80, 0.82, size),
        "Jaccard 0.28 to 0.30": lambda text: _at_similarity(rng, text, 0.28, 0.30, size),
    }
    share = len(shuffled) // (len(kinds) + 1)
    texts, origin, kind_of = list(shuffled), {}, {}
    for number, (kind, make) in enumerate(kinds.items()):
        for n in range(number * share, (number + 1) * share):
            copy = make(shuffled[n])
            if copy is not None:
                origin[len(texts)], kind_of[len(texts)] = n, kind
                texts.append(copy)
    kept = _kept(texts, stages="near_duplicates", near_duplicates=settings).keys()
    dropped = set(range(len(texts))) - kept
    found = {copy for copy, n in origin.items() if copy in dropped or n in dropped}
    rows = []
    far = {copy for copy, kind in kind_of.items() if kind == "Jaccard 0.28 to 0.30"}
    wrong = len(dropped) - len(found - far)
    for kind in list(kinds)[:2]:
        planted = {copy for copy, its_kind in kind_of.items() if its_kind == kind}
        rows.append(
            {
                "stage": f"near_duplicates, {size} words, {settings.bands} x {settings.rows}",
                "planted as": kind,
                "to be mistaken": f"{len(far)} copies of Jaccard 0.28 to 0.30, and all others",
                "planted": len(planted),
                "recall": len(found & planted) / len(planted),
                "precision": 1 - wrong / max(len(dropped), 1),
                "mean Jaccard": sum(_jaccard(texts[c], texts[origin[c]], size) for c in planted)
                / len(planted),
            }
        )
    return rows


def _luhn(rng: random.Random, first: str, length: int) -> str:
    digits = first + "".join(rng.choices(_DIGITS, k=length - len(first) - 1))
    for check in _DIGITS:
        total = 0
        for position, digit in enumerate(reversed(digits + check)):
            value = int(digit) * (1 + position % 2)
            total += value // 10 + value % 10
        if total % 10 == 0:
            return digits + check
    raise AssertionError


def _grouped(number: str, sign: str) -> str:
    return sign.join(number[n : n + 4] for n in range(0, len(number), 4))


def _personal(rng: random.Random) -> dict[str, Callable[[], str]]:
    def letters(alphabet: str, count: int) -> str:
        return "".join(rng.choices(alphabet, k=count))

    def card() -> str:
        number = rng.choice([_luhn(rng, "4", 16), _luhn(rng, "53", 16), _luhn(rng, "37", 15)])
        return rng.choice([number, _grouped(number, " "), _grouped(number, "-")])

    def phone() -> str:
        area = rng.choice("212 415 312 617 206 305 702 503".split())
        office, line = f"{rng.randrange(222, 999)}", f"{rng.randrange(10_000):04d}"
        office = office if office[1:] != "11" else "555"
        forms = "({0}) {1}-{2}|{0}-{1}-{2}|+1 {0} {1} {2}|+1{0}{1}{2}|{0}.{1}.{2}".split("|")
        tokyo = f"+81 3-{rng.randrange(3200, 3600)}-{line}"
        return rng.choice([*forms, tokyo]).format(area, office, line)

    def key() -> str:
        base64 = _LETTERS + _UPPER + _DIGITS
        body = "\n".join(letters(base64 + "+/", 64) for _ in range(6))
        return rng.choice(
            [
                f"AKIA{letters(_UPPER + _DIGITS, 16)}",
                f"ghp_{letters(base64, 36)}",
                f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----",
                f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx{letters(base64, 12)}.{letters(base64, 43)}",
                f"glpat-{letters(base64, 20)}",
                f"sk_live_{letters(base64, 24)}",
            ]
        )

    def email() -> str:
        name = rng.choice([f"{_word(rng)}.{_word(rng)}", _word(rng), f"{_word(rng)}+{_word(rng)}"])
        return f"{name}@{_word(rng)}.{rng.choice(['com', 'co.jp', 'org', 'ac.uk', 'io'])}"

    def ip() -> str:
        parts = [rng.choice([34, 52, 81, 93, 151, 203]), *(rng.randrange(1, 255) for _ in "abc")]
        six = ":".join(f"{rng.randrange(1, 65536):x}" for _ in range(6))
        return rng.choice([".".join(map(str, parts)), f"2001:{rng.randrange(512, 3000):04x}:{six}"])

    return {"key": key, "email": email, "card": card, "ip": ip, "phone": phone}


def _lookalikes(rng: random.Random) -> list[Callable[[], str]]:
    def number(count: int) -> str:
        return "".join(rng.choices(_DIGITS, k=count))

    def invalid_card() -> str:
        digits = _luhn(rng, "4", 16)
        return _grouped(digits[:-1] + str((int(digits[-1]) + rng.randrange(1, 10)) % 10), " ")

    return [
        invalid_card,
        lambda: f"version {rng.randrange(9)}.{rng.randrange(99)}.{rng.randrange(99)}.1",
        lambda: f"10.{rng.randrange(255)}.{rng.randrange(255)}.{rng.randrange(255)}",
        lambda: f"section {rng.randrange(1, 20)}.{rng.randrange(9)}.{rng.randrange(9)}.2",
        lambda: f"ISBN 978-0-{number(3)}-{number(5)}-{number(1)}",
        lambda: f"20{number(2)}-10-1{number(1)} 1{number(1)}:2{number(1)}:3{number(1)}",
        lambda: f"commit {rng.randrange(16**40):040x}",
        lambda: f"{rng.randrange(16**8):08x}-{number(4)}-4{number(3)}-a{number(3)}-{number(12)}",
        lambda: f"{_word(rng)}@2x.png",
        lambda: f"git@github.com:{_word(rng)}/{_word(rng)}.git",
        lambda: f"@{_word(rng)}.{_word(rng)}",
        lambda: f"0.{number(16)}",
        lambda: f"pages {rng.randrange(100, 900)}-{rng.randrange(100, 900)}",
        lambda: f"part {number(3)}-{number(2)}-{number(4)}",
        lambda: f"id {number(16)}00",
        lambda: f"{rng.randrange(100, 999)} {rng.randrange(100, 999)} {rng.randrange(100, 999)}",
        lambda: f"AKIA{_word(rng)}",
        lambda: f"std::{_word(rng)}::{_word(rng)}",
        lambda: f"{rng.randrange(10, 24)}:{number(2)}:{number(2)}.{number(6)}",
    ]


def redaction_rows(rng: random.Random, clean: list[str]) -> list[Row]:
    kinds = _personal(rng)
    lookalikes = _lookalikes(rng)
    rows, false_total = [], {kind: 0 for kind in kinds}
    for make in lookalikes:
        for _ in range(100):
            _, counts = redact(f"see {make()} there", list(kinds), "en")
            for kind, count in counts.items():
                false_total[kind] += count
    for text in clean:
        for kind, count in redact(text, list(kinds), "en")[1].items():
            false_total[kind] += count
    for kind, make in kinds.items():
        hits = misses = other = 0
        for n in range(500):
            words = clean[n % len(clean)].split(" ")[:60]
            words.insert(rng.randrange(len(words)), rng.choice(["{}", "({}),", "{}.", "<{}>"]))
            _, counts = redact(" ".join(words).replace("{}", make(), 1), list(kinds), "en")
            hits += min(counts[kind], 1)
            misses += not counts[kind]
            other += sum(counts.values()) - min(counts[kind], 1)
        false = false_total[kind] + other
        rows.append(
            {
                "stage": "redaction",
                "planted as": f"<{kind}>",
                "to be mistaken": f"{100 * len(lookalikes):,} look-alikes, the clean documents",
                "planted": 500,
                "recall": hits / 500,
                "precision": hits / max(hits + false, 1),
            }
        )
    return rows


def _garbage(rng: random.Random, clean: list[str]) -> list[Row]:
    def words(count: int) -> str:
        return " ".join(_word(rng) for _ in range(count))

    def table(_: int) -> str:
        return "\n".join(
            " | ".join(f"{rng.random() * 1000:.3f}" for _ in range(8)) for _ in range(40)
        )

    spanish = (
        "El informe de la comisión describe los problemas del puerto y propone que los barcos "
        "esperen en la bahía hasta la mañana siguiente, cuando el viento sea más débil. "
    )
    kinds: dict[str, Callable[[int], str]] = {
        "random words": lambda n: ". ".join(words(12) for _ in range(20)) + ".",
        "one line again and again": lambda n: (" ".join(clean[n].split()[:12]) + ".\n") * 40,
        "tables of numbers": table,
        "menus": lambda n: "\n".join(words(2).title() for _ in range(120)),
        "a few words": lambda n: " ".join(clean[n].split()[:20]),
        "another language": lambda n: spanish * 3 + " ".join(_word(rng) for _ in range(5)),
        "code": lambda n: "".join(
            f"def {_word(rng)}({_word(rng)}):\n    return {{{_word(rng)!r}: {n}}}\n\n"
            for n in range(30)
        ),
        "hash tags": lambda n: " ".join(f"#{_word(rng)} {_word(rng)}" for _ in range(80)),
    }
    texts = [make(n) for make in kinds.values() for n in range(50)]
    stages = "language, gopher_quality, c4_quality, fineweb_quality, gopher_repetition"
    # One text that stays, because a corpus of nothing is refused.
    whole = next(text for text in clean if len(text.split(" ")) < 600)
    kept = _kept([*texts, whole], stages=stages, fineweb_quality=_FINEWEB).keys()
    return [
        {
            "stage": "language and quality",
            "planted as": kind,
            "to be mistaken": "",
            "planted": 50,
            "recall": sum(n not in kept for n in range(50 * number, 50 * number + 50)) / 50,
            "precision": None,
        }
        for number, kind in enumerate(kinds)
    ]


def _lines(rng: random.Random, clean: list[str]) -> list[Row]:
    footer = "\n".join(" ".join(_word(rng) for _ in range(12)) for _ in range(5))
    menu = "\n".join(_word(rng).title() for _ in range(4))
    once = _kept(clean, stages="repeated_lines")  # cutting may have made new runs equal
    clean = [text for n, text in enumerate(clean) if once.get(n) == text]
    texts = [f"{menu}\n{text}\n{footer}" if n < 200 else text for n, text in enumerate(clean)]
    kept = _kept(texts, stages="repeated_lines")
    cut = {n for n in range(len(texts)) if footer not in kept.get(n, "") and n < 200}
    touched = {n for n in range(len(texts)) if kept.get(n) != texts[n]}
    whole = sum(kept.get(n) == f"{menu}\n{clean[n]}" for n in cut)
    return [
        {
            "stage": "repeated_lines",
            "planted as": "a footer of 5 lines",
            "to be mistaken": "a menu of 4 words, and the documents themselves",
            "planted": 199,
            "recall": len(cut) / 199,
            "precision": whole / max(len(touched), 1),
        }
    ]


def _exam(rng: random.Random, clean: list[str]) -> list[Row]:
    questions = [" ".join(_word(rng) for _ in range(30)) for _ in range(100)]
    texts = list(clean)
    for n, question in enumerate(questions):
        words = question.split()
        start = rng.randrange(len(words) - 13)
        for position, size in ((n, 13), (100 + n, 12)):
            quote = " ".join(words[start : start + size]).title()
            half = texts[position].split(" ")
            texts[position] = " ".join([*half[:50], f'"{quote}!"', *half[50:]])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "exam.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in questions))
        config = DecontaminationConfig(paths=str(path))
        kept = _kept(texts, stages="decontamination", decontamination=config).keys()
    return [
        {
            "stage": "decontamination",
            "planted as": "13 words of a question, in other case",
            "to be mistaken": "100 documents with 12 words",
            **_scores(set(range(len(texts))) - kept, set(range(100))),
        }
    ]


def all_rows(rng: random.Random, clean: list[str]) -> list[Row]:
    """Returns the rows of all stages."""
    rows = _duplicates(rng, clean)
    for settings in (
        NearDuplicatesConfig(),
        NearDuplicatesConfig(3, 20, 7),
        NearDuplicatesConfig(5, 14, 8),
    ):
        rows += near_rows(random.Random(1), clean, settings)
    return rows + (
        _lines(rng, clean) + _exam(rng, clean) + redaction_rows(rng, clean) + _garbage(rng, clean)
    )
