"""Writes any amount of text that a preparation keeps: documents of sentences of a prepared corpus.

  python -m benchmarks.recombined_text --corpus=corpora/english --megabytes=1000 \
      --output=data/recombined.jsonl

Each document is ten paragraphs of sentences that are drawn at random, so no two are near
duplicates, and the filters have as much to do as with the corpus itself. It tells nothing of
quality.
"""

import gzip
import json
import random
import re
from pathlib import Path

from absl import app, flags

CORPUS = flags.DEFINE_string("corpus", None, "What launch.prepare_data wrote.", required=True)
MEGABYTES = flags.DEFINE_integer("megabytes", 1000, "Size of the text.")
OUTPUT = flags.DEFINE_string("output", None, "JSONL to write.", required=True)

_END = re.compile(r"(?<=[.!?])\s+")


def _sentences(corpus: Path) -> list[str]:
    """Returns the different sentences of 8 to 60 words, in their order."""
    found: dict[str, None] = {}
    for path in sorted((corpus / "documents").iterdir()):
        for line in gzip.open(path, "rt", encoding="utf-8"):
            for sentence in _END.split(json.loads(line)["text"]):
                if "\n" not in sentence and 8 <= len(sentence.split()) <= 60:
                    found[sentence.strip()] = None
    return [sentence for sentence in found if sentence.endswith((".", "!", "?"))]


def main(_: list[str]) -> None:
    """Writes the documents until the size is reached."""
    rng, sentences, size = random.Random(0), _sentences(Path(CORPUS.value)), 0
    with Path(OUTPUT.value).open("w", encoding="utf-8") as file:
        while size < MEGABYTES.value * 1e6:
            paragraphs = [" ".join(rng.choices(sentences, k=6)) for _ in range(10)]
            line = json.dumps({"text": "\n".join(paragraphs)}, ensure_ascii=False) + "\n"
            size += len(line.encode())
            file.write(line)
    print(f"{OUTPUT.value}: {size:,} bytes of {len(sentences):,} sentences")


if __name__ == "__main__":
    app.run(main)
