"""Writes text with a trained model.

  python -m launch.generate --workdir=runs/quickstart --prompt='The "for" statement'
  python -m launch.generate --workdir=runs/quickstart --temperature=0 --max_new_tokens=200
  python -m launch.generate --workdir=runs/quickstart --num_samples=4 --top_p=0.9 --seed=1

Several --prompt flags are continued side by side; without one the model starts a new document.
--temperature=0 takes the most probable token each time. The last line of the output is JSON with
the texts.
"""

from pathlib import Path
from typing import Any

from absl import flags

from launch import program
from lm_jax import runs
from lm_jax.experiment import SamplesConfig

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
PROMPT = flags.DEFINE_multi_string("prompt", [""], "What the text begins with.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Texts a prompt.", lower_bound=1)
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "Tokens a text.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 0.8, "0: greedy; 1: the model's own.", 0.0)
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw among the k most probable; 0: all.", lower_bound=0)
TOP_P = flags.DEFINE_float("top_p", 0.95, "Draw among those with p of the mass; 1: all.", 0.0, 1.0)
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.", 0, 2**32 - 1)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")


def main() -> dict[str, Any]:
    """Prints each text, then returns them all."""
    run = runs.load(Path(WORKDIR.value), CHECKPOINT.value, say=program.say)
    prompts = [prompt for prompt in PROMPT.value for _ in range(NUM_SAMPLES.value)]
    sampling = SamplesConfig(
        max_new_tokens=MAX_NEW_TOKENS.value,
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
    )
    texts = runs.complete(run, prompts, sampling, seed=SEED.value)
    for text in texts:
        program.say(f"{text}\n{'-' * 80}")
    return {"workdir": WORKDIR.value, "step": run.step, "texts": texts}


if __name__ == "__main__":
    program.run(main)
