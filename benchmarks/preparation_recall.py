"""Recall and precision of the stages of `launch.prepare_data`, on text with known faults.

  python -m benchmarks.preparation_recall --documents=corpora/english/documents \
      --output=benchmarks/results/preparation_recall.json

Takes clean documents of a prepared corpus, which no stage drops, cuts them to 600 words, and
plants copies, near copies, personal data, garbage and questions of an exam. What each stage should
do is known of every document. Recall: of what was planted, the share that is dropped, replaced or
cut. Precision: of what is dropped, replaced or cut, the share that was planted; beside it stands
what was planted to be mistaken. Rules of quality have no precision here: the documents are clean by
these very rules.
"""

import random
from pathlib import Path

from absl import app, flags

from benchmarks.planted_faults import all_rows
from lm_jax.data.text_stream import stream_texts
from lm_jax.telemetry.json_files import write_json

DOCUMENTS = flags.DEFINE_string("documents", None, "documents/ of a corpus.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def main(_: list[str]) -> None:
    """Prints a table and writes the JSON file, if one is given."""
    rng = random.Random(0)
    clean: list[str] = []
    for text, _name in stream_texts(DOCUMENTS.value):
        words = text.split(" ")
        if len(words) >= 150:
            clean.append(" ".join(words[:600]))
    clean = rng.sample(clean, min(len(clean), 2000))
    print(f"{len(clean):,} clean documents")
    rows = all_rows(rng, clean)
    head = ("stage", "planted as", "to be mistaken", "planted", "recall", "precision")
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        cells = [str(row[name]) for name in head[:-2]]
        cells += ["" if row[name] is None else f"{row[name]:.3f}" for name in head[-2:]]
        print("| " + " | ".join(cells) + " |")
    if OUTPUT.value:
        Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(OUTPUT.value), {"clean": len(clean), "rows": rows})


if __name__ == "__main__":
    app.run(main)
