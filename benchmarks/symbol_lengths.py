"""Accuracy of runs on symbol sequences by length: a table and a plot.

  python -m benchmarks.symbol_lengths --output=benchmarks/results/symbols_reverse \
      runs/encoder_decoder runs/decoder runs/lstm_attention runs/lstm

The runs are of configs/symbols.py, trained on sequences of 1 to 20 symbols. New sequences of 4
symbols (training holds few of those) up to --longest, which must fit the models, are decoded
greedily. OUTPUT.json receives the shares, OUTPUT.svg the plot.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import app, flags

from lm_jax.config.experiment import SamplesConfig
from lm_jax.data import ParallelTextConfig
from lm_jax.data.seq2seq.synthetic import made_pairs
from lm_jax.reports.svg_charts import Series, line_chart
from lm_jax.runs.trained_run import Run, load
from lm_jax.runs.translate import translate
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

OUTPUT = flags.DEFINE_string(
    "output", None, "Path of the files to write, without extension.", required=True
)
LONGEST = flags.DEFINE_integer("longest", 23, "Symbols of the longest sequence.", lower_bound=2)
_SHORTEST = 4

SEQUENCES = flags.DEFINE_integer("sequences", 200, "Sequences per length.", lower_bound=2)


def shares(run: Run, lengths: range) -> list[float]:
    """Returns the share of sequences per length with every symbol and the end right."""
    experiment = run.built.experiment
    config: ParallelTextConfig = experiment.data
    sources, targets = [], []
    for length in lengths:
        symbols = dataclasses.replace(
            config.symbols,
            num_validation_pairs=SEQUENCES.value,
            validation_shortest=length,
            validation_longest=length,
        )
        _, pairs = made_pairs(config.source, symbols)
        sources += [source for source, _ in pairs]
        targets += [target for _, target in pairs]
    search = SamplesConfig(max_new_tokens=experiment.model.context_length, num_beams=1)
    found = translate(run, sources, search, batch_size=200)
    rights: dict[int, list[bool]] = {length: [] for length in lengths}
    for (text, *_), target in zip(found, targets, strict=True):
        rights[len(target.split())].append(text == target)
    return [sum(right) / len(right) for right in rights.values()]


def main(arguments: list[str]) -> None:
    """Prints a table and writes the files."""
    lengths = range(_SHORTEST, LONGEST.value + 1)
    found: dict[str, list[float]] = {}
    for workdir in map(Path, arguments[1:]):
        run = load(workdir, log=lambda line: None)
        found[workdir.name] = shares(run, lengths)
    print(f"{'length':>8}" + "".join(f"{name:>20}" for name in found))
    for index, length in enumerate(lengths):
        print(f"{length:8}" + "".join(f"{row[index]:20.1%}" for row in found.values()))
    results: dict[str, Any] = {"environment": environment(), "lengths": list(lengths)}
    write_json(Path(f"{OUTPUT.value}.json"), results | {"shares": found})
    series = [Series(name, list(lengths), row) for name, row in found.items()]
    chart = line_chart(
        series, "symbols", "share of sequences right", width=720, height=320, standalone=True
    )
    Path(f"{OUTPUT.value}.svg").write_text(f"{chart}\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
