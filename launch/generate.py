"""Writes text with a trained model.

  python -m launch.generate --workdir=runs/quickstart --prompt='The "for" statement'
  python -m launch.generate --workdir=runs/quickstart --temperature=0 --max_new_tokens=200
  python -m launch.generate --workdir=runs/quickstart --num_samples=4 --top_p=0.9 --seed=1
  python -m launch.generate --workdir=runs/quickstart --prompt='The' --stop='.' --stop='!'
  python -m launch.generate --workdir=runs/quickstart --num_beams=4 --max_new_tokens=9
  python -m launch.generate --workdir=runs/quickstart --prompt='The' --show_probabilities

Several --prompt flags are continued side by side; without one the model starts a new document. A
model that translates takes each prompt as its source.

Samples are drawn token by token. --temperature below 1 makes likely tokens likelier, 0 takes the
likeliest each time; --top_k, --top_p and --min_p leave unlikely ones out; --repetition_penalty
holds back those that the text has. With --num_beams above 1 nothing is drawn: beam search looks
for the most probable whole texts, keeping that many unfinished ones at each step.

The last line of the output is JSON with the texts, the log-probability of each (nats), and its
score: with beams, the log-probability over the length penalty.
"""

from pathlib import Path
from typing import Any

from absl import flags

from launch import beams, program
from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.generation.generate import NextToken
from lm_jax.runs.trained_run import complete, load, next_tokens, search_tree

_BLOCK = "\u2588"
_DEFAULT = SamplesConfig()
_OF_SAMPLES = (
    "num_samples",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
)
_OF_BEAMS = ("num_best", "length_penalty", "length_penalty_kind", "early_stopping", "show_beams")

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
PROMPT = flags.DEFINE_multi_string("prompt", [""], "What the text begins with, or its source.")
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "Tokens a text.", lower_bound=1)
SHOW_PROBABILITIES = flags.DEFINE_bool(
    "show_probabilities", False, "Show the ten likeliest tokens after each token of each prompt."
)

NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Sampled texts a prompt.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.", 0, 2**32 - 1)
TEMPERATURE = flags.DEFINE_float(
    "temperature", _DEFAULT.temperature, "0: greedy; 1: the model's own.", 0.0
)
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw among the k most probable; 0: all.", lower_bound=0)
TOP_P = flags.DEFINE_float(
    "top_p", _DEFAULT.top_p, "Draw among those with p of the mass; 1: all.", 0.0, 1.0
)
MIN_P = flags.DEFINE_float(
    "min_p", 0.0, "Draw among those at least p times as probable as the likeliest.", 0.0, 1.0
)
REPETITION_PENALTY = flags.DEFINE_float(
    "repetition_penalty", 1.0, "Divides the logits of tokens that the text has; 1: off, 1.2: usual."
)
STOP = flags.DEFINE_multi_string("stop", [], "End a sampled text before this string.")

NUM_BEAMS = flags.DEFINE_integer("num_beams", 1, "Above 1: beam search.", lower_bound=1)
NUM_BEST = flags.DEFINE_integer("num_best", 1, "Beam search: texts a prompt.", lower_bound=1)
flags.adopt_module_key_flags(beams)  # --help shows them
SHOW_BEAMS = flags.DEFINE_bool("show_beams", False, "Beam search: draw the tree of each prompt.")


def main() -> dict[str, Any]:
    """Prints each text, then returns them all with their scores."""
    _refuse_mixed()
    run = load(Path(WORKDIR.value), CHECKPOINT.value, log=program.log)
    config = SamplesConfig(
        num_samples=NUM_SAMPLES.value,
        max_new_tokens=MAX_NEW_TOKENS.value,
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
        min_p=MIN_P.value,
        repetition_penalty=REPETITION_PENALTY.value,
        num_beams=NUM_BEAMS.value,
        num_best=NUM_BEST.value,
        **beams.choices(),
    )
    if SHOW_PROBABILITIES.value:
        for prompt in PROMPT.value:
            for expected in next_tokens(run, prompt):
                program.log(_bars(expected))
    if SHOW_BEAMS.value:
        for prompt in PROMPT.value:
            program.log("\n".join([repr(prompt), *search_tree(run, prompt, config)]))
    found = complete(run, PROMPT.value, config, seed=SEED.value, stop=STOP.value)
    for text in found:
        program.log(f"{text.text}\n{'-' * 80}")
    return {
        "workdir": WORKDIR.value,
        "step": run.step,
        "texts": [text.text for text in found],
        "log_probabilities": [text.log_probability for text in found],
        "scores": [text.score for text in found],
    }


def _refuse_mixed() -> None:
    """Raises UserError for a flag that has nothing to say about the way that was chosen."""
    searches = NUM_BEAMS.value > 1
    for name in _OF_SAMPLES if searches else _OF_BEAMS:
        if flags.FLAGS[name].present:
            raise UserError(
                f"--{name} is about samples, and beam search draws none: leave it out"
                if searches
                else f"--{name} is about beam search: give --num_beams too"
            )


def _bars(expected: NextToken) -> str:
    """The likeliest tokens after a token, each with a bar."""
    lines = [f"after {expected.after}"]
    width = max(map(len, expected.tokens))
    for token, share in zip(expected.tokens, expected.probabilities, strict=True):
        lines.append(f"  {token:<{width}} {100 * share:5.1f}% {_BLOCK * round(40 * share)}")
    return "\n".join(lines)


if __name__ == "__main__":
    program.run(main)
