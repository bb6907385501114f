"""Generates text with a trained model.

  python -m launch.generate --workdir=runs/quickstart --prompt='The "for" statement'
  python -m launch.generate --workdir=runs/quickstart --temperature=0 --max_new_tokens=200
  python -m launch.generate --workdir=runs/quickstart --num_samples=4 --top_p=0.9 --seed=1
  python -m launch.generate --workdir=runs/quickstart --prompt='The' --stop='.' --stop='!'
  python -m launch.generate --workdir=runs/quickstart --num_beams=4 --max_new_tokens=9
  python -m launch.generate --workdir=runs/quickstart --prompt='The' --show_probabilities
  python -m launch.generate --workdir=runs/imported --chat --prompt='Why is the sky blue?'

Repeat --prompt to continue several prompts; without a prompt the model starts a new document. A
model that translates takes each prompt as its source.

By default texts are sampled token by token. --temperature below 1 makes probable tokens more
probable, and 0 takes the most probable one each time; --top_k, --top_p and --min_p exclude
improbable tokens; --repetition_penalty makes tokens that are already in the text less probable.
--num_beams above 1 searches for the most probable whole texts instead and samples nothing.

--chat puts each prompt as a question to an imported model, by the chat template that came with its
tokenizer, and prints the answer. --beginning_token=false reads a prompt without the token that ends
a document before it, as transformers does for most models.

--weights=int8 rounds the weights of dense layers, which takes less memory and changes probabilities
a little (docs/generation.md).

The last line of the output is JSON with the texts, the log-probability of each in nats, and its
score. The score of a beam search is the log-probability divided by the length penalty.
"""

from typing import TYPE_CHECKING, Any

from absl import flags

from launch import dataclass_flags, program, weights_flag
from lm_jax.config.parts import SamplesConfig
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.generation.generate import NextToken

_BLOCK = "\u2588"
_SAMPLING = ("num_samples", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_SEARCH = ("num_best", "length_penalty", "length_penalty_kind", "early_stopping")

WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
PROMPT = flags.DEFINE_multi_string("prompt", [""], "The beginning of the text, or its source.")
SAMPLES = dataclass_flags.define(
    SamplesConfig(num_samples=1), ("max_new_tokens", "num_beams", *_SAMPLING, *_SEARCH)
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.", 0, 2**32 - 1)
STOP = flags.DEFINE_multi_string("stop", [], "End a sampled text before this string.")
SHOW_PROBABILITIES = flags.DEFINE_bool(
    "show_probabilities", False, "Show the ten most probable tokens after each prompt token."
)
CHAT = flags.DEFINE_bool("chat", False, "Answer each prompt by the model's chat template.")
SYSTEM = flags.DEFINE_string("system", "", "With --chat: the message before each prompt.")
BEGINNING_TOKEN = flags.DEFINE_bool(
    "beginning_token", True, "A document begins before each prompt."
)
SHOW_BEAMS = flags.DEFINE_bool("show_beams", False, "Beam search: draw the tree of each prompt.")
flags.adopt_module_key_flags(weights_flag)  # --help shows it


def main() -> dict[str, Any]:
    """Prints each text, then returns all texts with their scores."""
    _refuse_flags()
    from lm_jax.runs.generate import complete, next_tokens, search_tree

    run = weights_flag.load(WORKDIR.value, CHECKPOINT.value)
    samples, begins = SAMPLES(), BEGINNING_TOKEN.value
    if SHOW_PROBABILITIES.value:
        for prompt in PROMPT.value:
            for each in next_tokens(run, prompt, begins=begins):
                program.log(_bars(each))
    if SHOW_BEAMS.value:
        for prompt in PROMPT.value:
            program.log(
                "\n".join([repr(prompt), *search_tree(run, prompt, samples, begins=begins)])
            )
    if CHAT.value:
        from lm_jax.runs import chat

        chats = [chat.read_chat(prompt, SYSTEM.value) for prompt in PROMPT.value]
        found = chat.answer(run, chats, samples, seed=SEED.value, stop=STOP.value)
    else:
        found = complete(
            run,
            PROMPT.value,
            samples,
            seed=SEED.value,
            stop=STOP.value,
            begins=begins,
        )
    for text in found:
        program.log(f"{text.text}\n{'-' * 80}")
    return {
        "workdir": WORKDIR.value,
        "step": run.step,
        "texts": [text.text for text in found],
        "log_probabilities": [text.log_probability for text in found],
        "scores": [text.score for text in found],
    }


def _refuse_flags() -> None:
    """Raises UserError for a flag that does not apply to the chosen method, or asks for nothing."""
    if SAMPLES().num_samples == 0:
        raise UserError("--num_samples=0 generates nothing; expected at least 1")
    if SYSTEM.value and not CHAT.value:
        raise UserError("--system is the first message of a chat: give --chat too")
    if CHAT.value:
        if SAMPLES().num_beams > 1 or SHOW_PROBABILITIES.value or BEGINNING_TOKEN.present:
            raise UserError(
                "--chat draws samples of answers, and its template decides how they begin: leave "
                "out --num_beams, --show_probabilities and --beginning_token"
            )
        if not all(PROMPT.value):
            raise UserError("--chat needs a question: give --prompt")
    if SAMPLES().num_beams > 1:
        for name in (*_SAMPLING, "seed", "stop"):
            if flags.FLAGS[name].present:
                raise UserError(
                    f"--{name} applies to samples, and --num_beams above 1 draws none: remove it"
                )
        return
    for name in (*_SEARCH, "show_beams"):
        if flags.FLAGS[name].present:
            raise UserError(f"--{name} applies to beam search: give --num_beams above 1 too")


def _bars(expected: "NextToken") -> str:
    """Returns the most probable tokens after a token, each with a bar."""
    lines = [f"after {expected.after}"]
    width = max(map(len, expected.tokens))
    for token, share in zip(expected.tokens, expected.probabilities, strict=True):
        lines.append(f"  {token:<{width}} {100 * share:5.1f}% {_BLOCK * round(40 * share)}")
    return "\n".join(lines)


if __name__ == "__main__":
    program.run(main)
