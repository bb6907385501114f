"""The same small models trained on raw and on prepared text, judged on the same clean text.

  python -m benchmarks.raw_and_clean --raw=data/english.jsonl --clean=corpora/english/documents \
      --output=benchmarks/results/raw_and_clean.json

Some documents of the prepared corpus are held out. From both texts, the stage `decontamination`
drops every document that shares 13 words in a row with them, so that no model saw them, nor a near
copy. A 6-gram model and a neural network on the last 8 bytes are trained on each, on the same
number of bytes of text: three seeds choose the documents, and the network's parameters and order
of the data. Bits per character of the held-out documents are means with standard errors.
"""

import json
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from absl import app, flags

from configs import mlp, ngram
from lm_jax.config.experiment import Experiment
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.data.preparation.config import DecontaminationConfig, PreparationConfig
from lm_jax.data.preparation.prepare import prepare
from lm_jax.data.text_stream import stream_texts
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.reports.preparation_page import write_page
from lm_jax.runs.train import train
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

RAW = flags.DEFINE_string("raw", None, "The raw text.", required=True)
CLEAN = flags.DEFINE_string("clean", None, "documents/ of the corpus made from it.", required=True)
MEGABYTES = flags.DEFINE_float("megabytes", 2.0, "Text that a model is trained on.")
HELD_OUT = flags.DEFINE_integer("held_out", 200_000, "Characters that are held out.")
STEPS = flags.DEFINE_integer("steps", 300, "Steps of the network, of 2,048 bytes each.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

_SEEDS = (0, 1, 2)
_LONGEST = 10_000  # characters of a document that is held out, so that there are many
_SPARE = 4  # times the text of a model that documents are drawn from


def _six_gram() -> Experiment:
    experiment = ngram.get_config("reference")
    experiment.model = NgramConfig(context_length=128, order=6)
    return experiment


def _network() -> Experiment:
    experiment = mlp.get_config("reference")
    experiment.model = MLPConfig(context_length=128, d_embedding=32, d_hidden=256)
    experiment.training.num_steps = STEPS.value
    experiment.schedule.warmup_steps = STEPS.value // 6
    return experiment


_MODELS: dict[str, Callable[[], Experiment]] = {"6-gram": _six_gram, "network": _network}


def _write(path: Path, texts: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def _sample(rng: random.Random, texts: list[str], size: float) -> list[str]:
    """Returns random documents of about this many bytes in all; the last one is cut."""
    found = []
    for text in rng.sample(texts, len(texts)):
        found.append(text.encode()[: int(size)].decode(errors="ignore"))
        size -= len(found[-1].encode())
        if size < 1:
            break
    return found


def _without_copies(texts: list[str], held_out: Path, corpus: Path) -> list[str]:
    config = PreparationConfig(
        path=str(_write(corpus.with_suffix(".jsonl"), texts)),
        stages="decontamination",
        decontamination=DecontaminationConfig(paths=str(held_out)),
    )
    prepare(config, corpus, 1, write_page)
    return [text for text, _ in stream_texts(str(corpus / "documents"))]


def _bits(experiment: Experiment, text: Path, held_out: Path, seed: int) -> float:
    """Returns the bits per character of the held-out text."""
    experiment.seed = seed
    experiment.data = DataConfig(
        source="files",
        path=str(text),
        validation_path=str(held_out),
        drop_repeated_paragraphs=False,  # what is raw stays raw
        tokenizer=TokenizerConfig("byte"),
        cache_directory=str(text.parent / "cache"),
    )
    experiment.evaluation.every_steps = 0
    experiment.evaluation.max_tokens = 10 * HELD_OUT.value
    experiment.evaluation.baselines = False
    experiment.samples.num_samples = 0
    with tempfile.TemporaryDirectory(dir=text.parent) as directory:
        found = train(experiment, Path(directory) / "run")
    return float(found["validation"]["bits_per_character"])


def _rows(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns a row for each model and text, and the held-out documents."""
    rng = random.Random(0)
    clean = [text for text, _ in stream_texts(CLEAN.value)]
    short = [text for text in clean if len(text) <= _LONGEST]
    held = _sample(rng, short, HELD_OUT.value)[:-1]
    held_out, known = _write(directory / "held_out.jsonl", held), set(held)
    texts = {
        "raw": [text for text, _ in stream_texts(RAW.value)],
        "clean": [text for text in clean if text not in known],
    }
    size = MEGABYTES.value * 1e6
    bits: dict[tuple[str, str], list[float]] = {}
    dropped = {}
    for label, all_of_it in texts.items():
        drawn = _sample(rng, all_of_it, _SPARE * size)
        left = _without_copies(drawn, held_out, directory / label)
        dropped[label] = len(drawn) - len(left)
        for seed in _SEEDS:
            sample = _sample(random.Random(seed), left, size)
            path = _write(directory / f"{label}_{seed}.jsonl", sample)
            for name, make in _MODELS.items():
                found = _bits(make(), path, held_out, seed)
                print(f"{name} on {label}, seed {seed}: {found:.4f} bits per character", flush=True)
                bits.setdefault((name, label), []).append(found)
    rows = [
        {
            "model": name,
            "text": label,
            "bits_per_character": statistics.mean(found),
            "standard_error": statistics.stdev(found) / math.sqrt(len(found)),
            "by_seed": found,
            "copies_of_held_out_dropped": dropped[label],
        }
        for (name, label), found in bits.items()
    ]
    return rows, held


def main(_: list[str]) -> None:
    """Prints the rows and writes the JSON file, if one is given."""
    with tempfile.TemporaryDirectory() as directory:
        rows, held = _rows(Path(directory))
    print("\n".join(map(json.dumps, rows)))
    if OUTPUT.value:
        found = {
            "environment": environment(),
            "megabytes": MEGABYTES.value,
            "steps_of_network": STEPS.value,
            "held_out": {"documents": len(held), "characters": sum(map(len, held))},
            "rows": rows,
        }
        write_json(Path(OUTPUT.value), found)


if __name__ == "__main__":
    app.run(main)
