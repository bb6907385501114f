"""Made corpora of which it is known what should be dropped."""

import json
import random
from pathlib import Path

NOUNS = (
    "river engine garden letter window market teacher village signal harbor mirror valley".split()
)
VERBS = "carries follows measures repairs watches collects answers divides borrows protects".split()
PLACES = "near the station, behind the old mill, on a quiet island, under the bridge".split(", ")


def prose(rng: random.Random, sentences: int = 12) -> str:
    """Returns sentences that pass every rule of quality and repeat little."""
    return " ".join(
        f"The {rng.choice(NOUNS)} of {rng.choice(NOUNS)} {rng.randrange(10_000)} "
        f"{rng.choice(VERBS)} that {rng.choice(NOUNS)} and the {rng.choice(NOUNS)} with "
        f"{rng.choice(NOUNS)} {rng.choice(PLACES)}."
        for _ in range(sentences)
    )


def write_jsonl(path: Path, texts: list[str]) -> Path:
    """Writes one document a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
