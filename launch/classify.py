"""Classifies new texts and images with a trained classifier.

  python -m launch.classify --workdir=runs/reviews --text=new_reviews.txt
  python -m launch.classify --workdir=runs/mnist_lenet5 --image='digits/*.png' --image=more.npz

--text names files with one text per line, or JSONL or CSV with a field `text`; `-` is the standard
input. --image names PNG files, or npz files with an array `images`, `x_test`, or any single array;
their size is that of the images of training. Both may be repeated. The last line of the output is
JSON with the probability of each class.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import program, weights_flag
from lm_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lm_jax.runs.trained_run import Run

WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
TEXT = flags.DEFINE_multi_string("text", None, "Files with one text per line; -: standard input.")
IMAGE = flags.DEFINE_multi_string("image", None, "PNG or npz files, or patterns of them.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Texts or images in a batch.", 1)
EXAMPLES = flags.DEFINE_integer("examples", 20, "Number of examples to print.", 0)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")

_SHOWN = 3  # most probable classes of an example
flags.adopt_module_key_flags(weights_flag)  # --help shows it


def main() -> dict[str, Any]:
    """Classifies, prints the most probable classes, and returns the probabilities of all."""
    if bool(TEXT.value) == bool(IMAGE.value):
        raise UserError("give either --text or --image: what should be classified?")
    from lm_jax.runs.classify import labels_of

    run = weights_flag.load(WORKDIR.value, CHECKPOINT.value)
    labels = labels_of(run)
    names, probabilities = _texts(run) if TEXT.value else _images(run)
    order = (-probabilities).argsort(axis=1, kind="stable")
    _print(names, probabilities, order, labels)
    kind = "text" if TEXT.value else "image"
    found = [
        {
            kind: name,
            "label": labels[best[0]],
            "probabilities": dict(zip(labels, row.tolist(), strict=True)),
        }
        for name, row, best in zip(names, probabilities, order, strict=True)
    ]
    return {"workdir": WORKDIR.value, "step": run.step, "predictions": found}


def _texts(run: "Run") -> tuple[list[str], "np.ndarray"]:
    from lm_jax.runs.classify import classify_texts, read_texts

    texts: list[str] = []
    for name in TEXT.value or ():
        if name == "-":
            texts += [line.strip() for line in sys.stdin if line.strip()]
        else:
            texts += read_texts(name)
    if not texts:
        raise UserError("--text=-: the standard input holds no text; expected one per line")
    return texts, classify_texts(run, texts, batch_size=BATCH_SIZE.value)


def _images(run: "Run") -> tuple[list[str], "np.ndarray"]:
    from lm_jax.data.classification.image_files import read_images
    from lm_jax.runs.classify import classify_images, image_shape

    names, images = read_images(IMAGE.value or (), image_shape(run))
    return names, classify_images(run, images, batch_size=BATCH_SIZE.value)


def _print(
    names: Sequence[str], probabilities: "np.ndarray", order: "np.ndarray", labels: Sequence[str]
) -> None:
    from lm_jax.reports.text_table import text_table

    rows = []
    shown = zip(names, probabilities, order, strict=True)
    for (name, row, best), _ in zip(shown, range(EXAMPLES.value), strict=False):
        classes = [f"{labels[index]} {row[index]:.1%}" for index in best[:_SHOWN]]
        rows.append([name if len(name) <= 60 else f"{name[:57]}...", *classes])
    if rows:
        for line in text_table(rows, "<" * len(rows[0])):
            program.log(line)
    if len(names) > EXAMPLES.value:
        program.log(f"{len(names) - EXAMPLES.value:,} more are in the JSON below")


if __name__ == "__main__":
    program.run(main)
