"""Translates with a trained model that reads a source, and scores what it says.

  python -m launch.translate --workdir=runs/translation
  python -m launch.translate --workdir=runs/translation --num_beams=1 --output=greedy.tsv
  python -m launch.translate --workdir=runs/translation --input=letters.txt --output=letters.tsv

Without --input the run's own validation split is translated. An input file holds a source a line,
or source<TAB>reference; a run of several tasks needs the instruction before each source. Where
there are references, BLEU, chrF and the share of exact matches are printed with their standard
errors (pip install -e '.[eval]'), and a few examples. --output holds lines of
source<TAB>translation<TAB>log-probability and, last, the reference. --num_beams=1 takes the most
probable token each time. The last line of the output is JSON with the figures; `log_probability` is
the mean over texts of the sum over their tokens, in nats.
"""

from pathlib import Path
from typing import Any

from absl import flags

from launch import beams, program
from lm_jax.config.experiment import SamplesConfig
from lm_jax.data.files import read_text
from lm_jax.errors import UserError
from lm_jax.evaluation.bleu_chrf import translation_measures
from lm_jax.generation.generate import Completion
from lm_jax.runs.trained_run import load
from lm_jax.runs.translate import held_out_pairs, translate

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
INPUT = flags.DEFINE_string("input", None, "Sources, a line each; none: the validation split.")
OUTPUT = flags.DEFINE_string("output", None, "Where the translations go, as a TSV file.")
NUM_BEAMS = flags.DEFINE_integer("num_beams", 4, "Texts kept at each step; 1: greedy.", 1)
flags.adopt_module_key_flags(beams)  # --help shows them
LIMIT = flags.DEFINE_integer("limit", 0, "Only so many sources, the first; 0: all.", 0)
TRUNCATE = flags.DEFINE_bool(
    "truncate", False, "Cut sources that are too long; a run that was trained so does always."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Sources at a time.", 1)
EXAMPLES = flags.DEFINE_integer("examples", 10, "How many are printed.", 0)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")


def main() -> dict[str, Any]:
    """Translates, writes, scores, and returns the figures."""
    run = load(Path(WORKDIR.value), CHECKPOINT.value, log=program.log)
    if INPUT.value:
        sources, references = _read(Path(INPUT.value))
    else:
        sources, references = held_out_pairs(run)
    count = LIMIT.value or len(sources)
    sources, references = sources[:count], references[:count]
    choices = {"num_beams": NUM_BEAMS.value, **beams.choices()}
    experiment = run.built.experiment
    if not run.built.objective.prompts_are_sources:
        raise UserError(f"{run.workdir} was not trained on pairs; use launch.generate")
    search = SamplesConfig(max_new_tokens=experiment.model.context_length, **choices)
    truncate = TRUNCATE.value or experiment.data.truncate
    found = translate(run, sources, search, batch_size=BATCH_SIZE.value, truncate=truncate)
    if OUTPUT.value:
        _write(Path(OUTPUT.value), sources, found, references)
    _show(sources, found, references)
    results = {"workdir": WORKDIR.value, "step": run.step, "search": choices}
    results["log_probability"] = sum(t.log_probability for t in found) / len(found)
    if references:
        results |= translation_measures([t.text for t in found], references)
        for name in ("bleu", "chrf", "exact_match"):
            error = results[f"{name}_standard_error"]
            spread = f" \u00b1 {error:.2f}" if error is not None else ""
            program.log(f"{name:12} {results[name]:6.2f}{spread}")
    return results


def _read(path: Path) -> tuple[list[str], list[str]]:
    lines = [line.rstrip("\r").split("\t") for line in read_text(path).rstrip("\n").split("\n")]
    for number, columns in enumerate(lines, 1):
        if len(columns) != len(lines[0]) or len(columns) > 2 or not all(map(str.strip, columns)):
            raise UserError(
                f"{path}:{number}: expected a source on every line, or source<TAB>reference"
            )
    return [columns[0] for columns in lines], [c[1] for c in lines if len(c) == 2]


def _write(path: Path, sources: list[str], found: list[Completion], references: list[str]) -> None:
    columns = [
        sources,
        [translation.text for translation in found],
        [f"{translation.log_probability:.6f}" for translation in found],
    ]
    columns += [references] if references else []
    # Catalogues have texts of several lines.
    rows = ["\t".join(" ".join(text.split()) for text in row) for row in zip(*columns, strict=True)]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _show(sources: list[str], found: list[Completion], references: list[str]) -> None:
    """Prints examples from all over the list."""
    step = max(len(sources) // max(EXAMPLES.value, 1), 1)
    for number in range(0, len(sources), step)[: EXAMPLES.value]:
        program.log(f"source       {sources[number]}\ntranslation  {found[number].text}")
        if references:
            program.log(f"reference    {references[number]}")
        program.log("")


if __name__ == "__main__":
    program.run(main)
