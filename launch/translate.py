"""Translates with a trained model that reads a source, and scores the translations.

  python -m launch.translate --workdir=runs/translation
  python -m launch.translate --workdir=runs/translation --num_beams=1 --output=greedy.tsv
  python -m launch.translate --workdir=runs/translation --input=letters.txt --output=letters.tsv
  echo 'a b c' | python -m launch.translate --workdir=runs/reverse --input=-

Without --input the run's own validation split is translated, or its test split with --split=test,
which is of a run that was trained with data.test_path. An input file, or the standard input (`-`),
holds one source per line, or source<TAB>reference; JSONL and CSV hold `source` and optionally
`target`. A run of several tasks needs the instruction before each source.
--num_beams=1 takes the most probable token each time.

With references, the program prints BLEU, chrF and the share of exact matches with their standard
errors (pip install -e '.[eval]'), and a few examples. BLEU's tokenizer is that of the language of
the references, or --bleu_tokenizer; sacrebleu's signatures name it. --output receives lines of
source<TAB>translation<TAB>log-probability and, last, the reference. The last line of the output is
JSON with the figures; `log_probability` is the mean over texts of the sum over their tokens, in
nats.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import dataclass_flags, program, weights_flag
from lm_jax.config.parts import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.bleu_tokenizers import AUTO, BLEU_TOKENIZERS, bleu_tokenizer

if TYPE_CHECKING:
    from lm_jax.generation.sliding_window import Completion

_SEARCH = ("num_beams", "length_penalty", "length_penalty_kind", "early_stopping")

WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
INPUT = flags.DEFINE_string(
    "input", None, "Sources, one per line; -: standard input; none: those of --split."
)
SPLIT = flags.DEFINE_enum(
    "split", "validation", ["validation", "test"], "The split of the run's own pairs to translate."
)
OUTPUT = flags.DEFINE_string("output", None, "The TSV file that receives the translations.")
SEARCH = dataclass_flags.define(SamplesConfig(num_beams=4), _SEARCH)
LIMIT = flags.DEFINE_integer("limit", 0, "Translate only the first sources; 0: all.", 0)
TRUNCATE = flags.DEFINE_bool(
    "truncate",
    False,
    "Cut sources that are too long, as data.truncate of the run does.",
)
BLEU_TOKENIZER = flags.DEFINE_enum(
    "bleu_tokenizer",
    AUTO,
    [AUTO, *BLEU_TOKENIZERS],
    "sacrebleu's tokenizer for BLEU. auto: that of the language of the references.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Sources in a batch.", 1)
EXAMPLES = flags.DEFINE_integer("examples", 10, "Number of examples to print.", 0)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
flags.adopt_module_key_flags(weights_flag)  # --help shows it


def main() -> dict[str, Any]:
    """Translates, writes, scores, and returns the figures."""
    output = program.output_file(OUTPUT.value)
    if INPUT.value and SPLIT.present:
        raise UserError("--input and --split name other sources: leave one out")
    from lm_jax.evaluation.bleu_chrf import translation_measures
    from lm_jax.reports.numbers import with_error
    from lm_jax.runs import translate

    run = weights_flag.load(WORKDIR.value, CHECKPOINT.value)
    if not run.built.objective.prompts_are_sources:
        raise UserError(f"{run.workdir} was not trained on pairs; use launch.generate")
    if INPUT.value:
        if INPUT.value == "-":
            sources, references = translate.columns_of(sys.stdin.read(), "the standard input")
        else:
            sources, references = translate.read_sources(Path(INPUT.value))
    else:
        sources, references = translate.held_out_pairs(run, SPLIT.value)
    if references:
        bleu_tokenizer(BLEU_TOKENIZER.value, references)  # refuses before hours of work
    count = LIMIT.value or len(sources)
    sources, references = sources[:count], references[:count]
    search, experiment = SEARCH(), run.built.experiment
    search.max_new_tokens = experiment.model.context_length
    truncate = TRUNCATE.value or experiment.data.truncate
    found = translate.translate(
        run, sources, search, batch_size=BATCH_SIZE.value, truncate=truncate
    )
    if output:
        translate.write_translations(output, sources, found, references)
    _print_examples(sources, found, references)
    results: dict[str, Any] = {
        "workdir": WORKDIR.value,
        "step": run.step,
        "search": {name: getattr(search, name) for name in _SEARCH},
        "log_probability": sum(t.log_probability for t in found) / len(found),
    }
    if references:
        results |= translation_measures([t.text for t in found], references, BLEU_TOKENIZER.value)
        for name in ("bleu", "chrf", "exact_match"):
            shown = with_error(results[name], results[f"{name}_standard_error"], ".2f")
            signature = results.get(f"{name}_signature", "")
            label = "exact match, %" if name == "exact_match" else name
            program.log(f"{label:14} {shown:>15}  {signature}".rstrip())
        if "bleu_remark" in results:
            program.log(results["bleu_remark"])
    return results


def _print_examples(sources: list[str], found: list["Completion"], references: list[str]) -> None:
    """Prints examples at equal distances in the list."""
    step = max(len(sources) // max(EXAMPLES.value, 1), 1)
    shown = range(0, len(sources), step)[: EXAMPLES.value]
    if 0 < len(shown) < len(sources):
        program.log(f"{len(shown)} of {len(sources):,} texts:\n")
    for number in shown:
        program.log(f"source       {sources[number]}\ntranslation  {found[number].text}")
        if references:
            program.log(f"reference    {references[number]}")
        program.log("")


if __name__ == "__main__":
    program.run(main)
