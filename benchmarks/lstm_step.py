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
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from lm_jax import sharding, training
from lm_jax.experiment import MeshConfig
from lm_jax.models.recurrent import RecurrentConfig, recurrent
from lm_jax.telemetry import environment

ROUNDS = flags.DEFINE_integer("rounds", 8, "Turns of each.", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 8, "Optimizer steps of a turn.", lower_bound=1)
VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 65, "Rows of the embedding.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", None, "Where the JSON goes.")

CONFIG = RecurrentConfig(context_length=64, cell="lstm", num_layers=2, d_hidden=512)
BATCH_SIZE = 32
LEARNING_RATE = 1e-3


def jax_turn(config: RecurrentConfig, tokens: np.ndarray) -> Callable[[], None]:
    """One dispatch of as many optimizer steps of lm_jax as there are batches."""
    mesh = sharding.make_mesh(MeshConfig())
    model, schedule = recurrent(config, jnp.float32), optax.constant_schedule(LEARNING_RATE)
    optimizer = optax.adam(schedule)
    batch = {
        "inputs": tokens[:, :, :-1],
        "targets": tokens[:, :, 1:],
        "weights": np.ones_like(tokens[:, :, 1:], np.float32),
    }
    example = {name: value[0] for name, value in batch.items()}
    holder = [training.init_state(model, optimizer, example, mesh, seed=0)]
    steps = training.jit_train_steps(training.make_train_step(model, optimizer, schedule))
    placed = sharding.place_batch(batch, sharding.batch_sharding(mesh, leading_axes=1))

    def turn() -> None:
        with sharding.on_mesh(mesh):
            holder[0], _ = steps(holder[0], placed)
        jax.block_until_ready(holder[0])

    return turn


def torch_turn(config: RecurrentConfig, tokens: np.ndarray) -> Callable[[], None]:
    """As many optimizer steps of eager PyTorch as there are batches, time-major throughout."""
    import torch

    torch.manual_seed(0)
    embedding = torch.nn.Embedding(config.vocab_size, config.d_hidden)
    lstm = torch.nn.LSTM(config.d_hidden, config.d_hidden, config.num_layers)
    output = torch.nn.Linear(config.d_hidden, config.vocab_size)
    model = torch.nn.ModuleList([embedding, lstm, output])
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    batches = torch.from_numpy(tokens.astype(np.int64)).transpose(1, 2).contiguous()

    def turn() -> None:
        for batch in batches:
            logits = output(lstm(embedding(batch[:-1]))[0])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return turn


def measure(config: RecurrentConfig, rounds: int, steps: int) -> dict[str, Any]:
    """Milliseconds a step of each, and the ratio of the turns; the first turn is left out."""
    shape = (steps, BATCH_SIZE, config.context_length + 1)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, shape).astype(np.int32)
    turns = {"lm_jax": jax_turn(config, tokens), "pytorch": torch_turn(config, tokens)}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - start)
    kept = {name: values[1:] for name, values in seconds.items()}
    pairs = zip(kept["pytorch"], kept["lm_jax"], strict=True)
    ratios = sorted(theirs / ours for theirs, ours in pairs)
    return {
        "milliseconds_per_step": {n: 1e3 * statistics.median(v) / steps for n, v in kept.items()},
        "fastest_milliseconds": {n: 1e3 * min(v) / steps for n, v in kept.items()},
        "ratio_to_pytorch": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
    }


def main(_: list[str]) -> None:
    """Prints the figures, and writes the JSON where asked."""
    import torch

    config = dataclasses.replace(CONFIG, vocab_size=VOCAB_SIZE.value)
    result = measure(config, ROUNDS.value, STEPS.value)
    for name, median in result["milliseconds_per_step"].items():
        print(
            f"{name:10}{median:8.1f} ms a step, at best {result['fastest_milliseconds'][name]:.1f}"
        )
    low, high = result["ratio_range"]
    print(f"ratio {result['ratio_to_pytorch']:.2f}, from {low:.2f} to {high:.2f}")
    if OUTPUT.value:
        about = {"environment": environment() | {"torch": torch.__version__}}
        Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        Path(OUTPUT.value).write_text(json.dumps(about | result, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
