"""Compares greedy decoding and beam search of translation runs on one held-out split.

  python -m benchmarks.translations --output=benchmarks/results/english_german.json \
      runs/transformer runs/lstm_attention runs/lstm

Each held-out source of each run (configs/english_german.py) is translated greedily and with four
beams, ranked once by log-probability and once by log-probability over length. The table has BLEU
and chrF with standard errors (sacrebleu, bootstrap), the log-probability per sentence, and the
shares of sentences for which the beams found a more and a less probable text than the greedy one.
Ranked by log-probability no text is less probable, because the greedy text is a candidate. --limit
translates that many sources, spread over the split.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from lm_jax.config.experiment import SamplesConfig
from lm_jax.evaluation.bleu_chrf import translation_measures
from lm_jax.runs.trained_run import Run, load
from lm_jax.runs.translate import held_out_pairs, translate
from lm_jax.telemetry.environment import environment

OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
LIMIT = flags.DEFINE_integer("limit", 0, "Number of sources; 0: all.", lower_bound=0)
EXAMPLES = flags.DEFINE_integer(
    "examples", 10, "Number of example translations in the JSON file.", lower_bound=0
)

_SEARCHES = {"greedy": (1, 0.0), "beam 4": (4, 0.0), "beam 4, over length": (4, 1.0)}
_SLACK = 1e-3  # nats; float32 sums in another order differ by less


def measured(run: Run) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Returns the results of each search, and examples."""
    experiment = run.built.experiment
    sources, references = held_out_pairs(run)
    step = max(len(sources) // LIMIT.value, 1) if LIMIT.value else 1
    sources, references = (texts[::step][: LIMIT.value or None] for texts in (sources, references))
    figures: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    greedy = np.zeros(len(sources))
    for name, (num_beams, length_penalty) in _SEARCHES.items():
        search = SamplesConfig(
            max_new_tokens=experiment.model.context_length,
            num_beams=num_beams,
            length_penalty=length_penalty,
        )
        found = translate(run, sources, search, batch_size=64, truncate=True)
        texts[name] = [text for text, *_ in found]
        log_p = np.array([translation.log_probability for translation in found])
        figures[name] = translation_measures(texts[name], references) | {
            "log_probability": float(log_p.mean())
        }
        if num_beams == 1:
            greedy = log_p
        else:
            figures[name]["more_probable"] = float((log_p > greedy + _SLACK).mean())
            figures[name]["less_probable"] = float((log_p < greedy - _SLACK).mean())
        print(name, json.dumps(figures[name]), flush=True)
    every = max(len(sources) // max(EXAMPLES.value, 1), 1)
    examples = [
        {"source": sources[i], "reference": references[i]}
        | {name: texts[name][i] for name in texts}
        for i in range(0, len(sources), every)[: EXAMPLES.value]
    ]
    return figures, examples


def main(arguments: list[str]) -> None:
    """Prints the table and writes the JSON file, if one is given."""
    results: dict[str, Any] = {"environment": environment(), "runs": {}}
    for workdir in map(Path, arguments[1:]):
        run = load(workdir)
        figures, examples = measured(run)
        trained = json.loads((workdir / "evaluation.json").read_text())
        results["runs"][workdir.name] = {
            "parameters": trained["parameters"],
            "seconds": trained["timings"]["total_seconds"],
            "perplexity": trained["validation"]["perplexity"],
            "accuracy": trained["validation"]["accuracy"],
            "searches": figures,
            "examples": examples,
        }
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    print(f"{'run':16} {'search':20} {'BLEU':>12} {'chrF':>12} {'nats':>8} {'more':>8} {'less':>8}")
    for name, run_figures in results["runs"].items():
        for search, figures in run_figures["searches"].items():
            scores = " ".join(
                f"{figures[score]:6.2f} +-{figures[f'{score}_standard_error']:4.2f}"
                for score in ("bleu", "chrf")
            )
            shares = (figures.get(f"{how}_probable") for how in ("more", "less"))
            probable = " ".join("" if share is None else f"{share:8.2%}" for share in shares)
            print(f"{name:16} {search:20} {scores} {figures['log_probability']:8.2f} {probable}")


if __name__ == "__main__":
    app.run(main)
