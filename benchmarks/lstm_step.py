"""Milliseconds of an LSTM's train step on a CPU, beside eager PyTorch's nn.LSTM.

  python -m benchmarks.lstm_step --rounds=8 --output=benchmarks/results/lstm.json

Forward, backward and an Adam update of an embedding, 2 x 512 LSTM and an output layer over 65
characters, 32 sequences of 64. Both run in one process, in turns, so that a machine whose speed
drifts does so for both. Each turn is one dispatch of several optimizer steps here and as many steps
there; the figures are medians, and the ratio is the median of the ratios of the turns. Needs the
`torch` extra.

lm_jax projects the embedding table of 65 rows for the first layer and looks up afterwards, which is
the same function for fewer products; `--vocab_size=4096` measures without that advantage.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.turns import Turn, language_batches, take_turns, training_turn, write_results
from lm_jax.models.recurrent import RecurrentConfig, recurrent

ROUNDS = flags.DEFINE_integer("rounds", 8, "Turns of each.", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 8, "Optimizer steps of a turn.", lower_bound=1)
VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 65, "Rows of the embedding.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", None, "Where the JSON goes.")

CONFIG = RecurrentConfig(context_length=64, cell="lstm", num_layers=2, d_hidden=512)
BATCH_SIZE = 32
LEARNING_RATE = 1e-3


def torch_turn(config: RecurrentConfig, batches: dict[str, np.ndarray]) -> Turn:
    """As many optimizer steps of eager PyTorch as there are batches, time-major throughout."""
    import torch

    torch.manual_seed(0)
    embedding = torch.nn.Embedding(config.vocab_size, config.d_hidden)
    lstm = torch.nn.LSTM(config.d_hidden, config.d_hidden, config.num_layers)
    output = torch.nn.Linear(config.d_hidden, config.vocab_size)
    model = torch.nn.ModuleList([embedding, lstm, output])
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    inputs, targets = (
        torch.from_numpy(batches[name].astype(np.int64)).transpose(1, 2).contiguous()
        for name in ("inputs", "targets")
    )

    def turn() -> None:
        for x, y in zip(inputs, targets, strict=True):
            logits = output(lstm(embedding(x))[0])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return turn


def measure(config: RecurrentConfig, rounds: int, steps: int) -> dict[str, Any]:
    """Milliseconds a step of each, and the ratio of the turns; the first turn is left out."""
    batches = language_batches(steps, BATCH_SIZE, config.context_length, config.vocab_size)
    ours = training_turn(recurrent(config, jnp.float32), optax.adam(LEARNING_RATE), batches)
    seconds = take_turns({"lm_jax": ours, "pytorch": torch_turn(config, batches)}, rounds)
    return {
        "milliseconds_per_step": {n: 1e3 * v / steps for n, v in seconds.medians().items()},
        "fastest_milliseconds": {n: 1e3 * min(v) / steps for n, v in seconds.turns.items()},
        **seconds.ratios(),
    }


def main(_: list[str]) -> None:
    """Prints the figures, and writes the JSON where asked."""
    config = dataclasses.replace(CONFIG, vocab_size=VOCAB_SIZE.value)
    result = measure(config, ROUNDS.value, STEPS.value)
    for name, median in result["milliseconds_per_step"].items():
        print(
            f"{name:10}{median:8.1f} ms a step, at best {result['fastest_milliseconds'][name]:.1f}"
        )
    low, high = result["ratio_range"]
    print(f"ratio {result['ratio']:.2f}, from {low:.2f} to {high:.2f}")
    write_results(OUTPUT.value, result)


if __name__ == "__main__":
    app.run(main)
