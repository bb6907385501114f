"""Tokens per second of the train step on a CPU, beside the same model in PyTorch.

  python -m benchmarks.cpu_train_step --rounds=8 --output=benchmarks/results/cpu.json

Both run in one process, in turns, so that a machine whose speed drifts does so for both. Each turn
is one dispatch of several optimizer steps here and as many steps there; the figures are medians,
and the ratio is the median of the ratios of the turns. Needs the `torch` extra.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

from lm_jax import programs, sharding, training
from lm_jax.experiment import Experiment, TrainingConfig
from lm_jax.models.transformer import TransformerConfig
from lm_jax.telemetry import environment

ROUNDS = flags.DEFINE_integer("rounds", 8, "Turns of each.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", None, "Where the JSON goes.")


class Case(NamedTuple):
    """A model, its batch in sequences, and how many steps make a turn."""

    config: TransformerConfig
    batch_size: int
    steps: int


CASES = {
    "4 x 128, context 64, batch 12": Case(
        TransformerConfig(65, context_length=64, num_layers=4, d_model=128, num_heads=4), 12, 40
    ),
    "6 x 384, context 256, batch 8": Case(
        TransformerConfig(65, context_length=256, num_layers=6, d_model=384, num_heads=6), 8, 8
    ),
}


def tokens_of(case: Case) -> np.ndarray:
    """Random tokens [steps, batch, context + 1]."""
    shape = (case.steps, case.batch_size, case.config.context_length + 1)
    return np.random.default_rng(0).integers(0, case.config.vocab_size, shape).astype(np.int32)


def jax_turn(case: Case, tokens: np.ndarray) -> Callable[[], None]:
    """One dispatch of `case.steps` optimizer steps of lm_jax."""
    training_config = TrainingConfig(batch_size=case.batch_size)
    experiment = Experiment(model=case.config, training=training_config)
    program = programs.compile_experiment(experiment, {})
    state = training.init_state(
        program.model, program.optimizer, program.example, program.mesh, seed=0
    )
    step = training.jit_train_steps(program.train_step)
    batch = {
        "inputs": tokens[:, :, :-1],
        "targets": tokens[:, :, 1:],
        "weights": np.ones_like(tokens[:, :, 1:], np.float32),
    }
    placed = sharding.place_batch(batch, sharding.batch_sharding(program.mesh, leading_axes=1))
    holder = [state]

    def turn() -> None:
        with sharding.on_mesh(program.mesh):
            holder[0], _ = step(holder[0], placed)
        jax.block_until_ready(holder[0])

    return turn


def torch_turn(case: Case, tokens: np.ndarray) -> Callable[[], None]:
    """`case.steps` optimizer steps of eager PyTorch."""
    import torch

    from benchmarks.torch_gpt import Trainer

    trainer, batches = Trainer(case.config), torch.from_numpy(tokens.astype(np.int64))

    def turn() -> None:
        for batch in batches:
            trainer.step(batch[:, :-1], batch[:, 1:])

    return turn


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of each turn of both, in turns, after one that is not counted."""
    tokens = tokens_of(case)
    turns = {"lm_jax": jax_turn(case, tokens), "pytorch": torch_turn(case, tokens)}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - start)
    count = case.steps * case.batch_size * case.config.context_length
    kept = {name: values[1:] for name, values in seconds.items()}
    pairs = zip(kept["pytorch"], kept["lm_jax"], strict=True)
    ratios = sorted(theirs / ours for theirs, ours in pairs)
    return {
        "tokens_per_second": {n: count / statistics.median(v) for n, v in kept.items()},
        "ratio_to_pytorch": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "first_turn_seconds": {name: values[0] for name, values in seconds.items()},
    }


def main(_: list[str]) -> None:
    """Prints a table, and writes the JSON where asked."""
    import torch

    results: dict[str, Any] = {"environment": environment() | {"torch": torch.__version__}}
    print(f"{'tokens/s':34}{'lm_jax':>10}{'pytorch':>10}{'ratio':>8}   range")
    for name, case in CASES.items():
        result = results[name] = measure(case, ROUNDS.value)
        ours, theirs = result["tokens_per_second"].values()
        low, high = result["ratio_range"]
        ratio = result["ratio_to_pytorch"]
        print(f"{name:34}{ours:10,.0f}{theirs:10,.0f}{ratio:8.2f}   {low:.2f} to {high:.2f}")
    if OUTPUT.value:
        Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        Path(OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
