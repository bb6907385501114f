"""Time, memory and recall of near duplicates among many short documents.

  python -m benchmarks.near_duplicates_scale --words=corpora/english/documents \
      --count=500000 --workers=2 --output=benchmarks/results/near_duplicates_scale.json

Most documents are 60 to 140 words drawn from those of a text, as often as they occur there, so no
two are alike by chance. A tenth are copies of one of the others in which 5% of the words are drawn
anew. The stage `near_duplicates` of `launch.prepare_data` runs with its defaults. A copy is found
if it or its original is dropped; any other document that is dropped is wrong.
"""

import gzip
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.preparation_run import measured
from lm_jax.data.text_stream import stream_texts
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

WORDS = flags.DEFINE_string("words", None, "Text whose words are drawn.", required=True)
COUNT = flags.DEFINE_integer("count", 500_000, "Documents, the copies included.")
WORKERS = flags.DEFINE_integer("workers", 2, "Workers.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

_COPIES = 10  # every tenth document is one
_CHANGED = 0.05  # of its words


def write_documents(path: Path, words: list[str], count: int) -> dict[int, int]:
    """Writes JSONL in random order; returns the line of the original of each copy's line."""
    rng = random.Random(0)
    originals = count - count // _COPIES
    lines = rng.sample(range(count), count)  # where each document goes
    texts = [""] * count
    for number in range(originals):
        texts[lines[number]] = " ".join(rng.choices(words, k=rng.randint(60, 140)))
    origins = {}
    chosen = rng.sample(range(originals), count - originals)  # each has one copy at most
    for number, original in enumerate(chosen, originals):
        copy = texts[lines[original]].split(" ")
        for position in rng.sample(range(len(copy)), round(_CHANGED * len(copy))):
            copy[position] = rng.choice(words)
        texts[lines[number]] = " ".join(copy)
        origins[lines[number]] = lines[original]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    return origins


def _kept(corpus: Path) -> set[int]:
    """Returns the lines of the raw text that are left."""
    found = set()
    for path in (corpus / "documents").iterdir():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found |= {int(json.loads(line)["id"].rpartition(":")[2]) - 1 for line in file}
    return found


def main(_: list[str]) -> None:
    """Prints the figures as JSON, and writes them with the environment if a file is given."""
    words = [word for text, _name in stream_texts(WORDS.value) for word in text.split()]
    with tempfile.TemporaryDirectory() as name:
        raw, corpus = Path(name) / "raw.jsonl", Path(name) / "corpus"
        origins = write_documents(raw, words, COUNT.value)
        del words
        row: dict[str, Any] = {
            "documents": COUNT.value,
            **measured(raw, corpus, WORKERS.value, "--config.stages=near_duplicates"),
        }
        dropped = set(range(COUNT.value)) - _kept(corpus)
    found = sum(copy in dropped or original in dropped for copy, original in origins.items())
    row |= {"copies": len(origins), "dropped": len(dropped), "recall": found / len(origins)}
    row["precision"] = found / len(dropped) if dropped else 1.0
    print(json.dumps(row))
    if OUTPUT.value:
        write_json(
            Path(OUTPUT.value),
            {"environment": environment(), "workers": WORKERS.value, "rows": [row]},
        )


if __name__ == "__main__":
    app.run(main)
