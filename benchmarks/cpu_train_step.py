"""Tokens per second of the train step on a CPU, beside the same model in PyTorch.

  python -m benchmarks.cpu_train_step --rounds=8 --output=benchmarks/results/cpu.json

Both run in one process, in turns, so that a machine whose speed drifts does so for both. Each turn
is one dispatch of several optimizer steps here and as many steps there; the figures are medians,
and the ratio is the median of the ratios of the turns. Needs the `torch` extra.
"""

from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from benchmarks.turns import Turn, language_batches, take_turns, training_turn, write_results
from lm_jax.experiment import OptimizerConfig
from lm_jax.models.transformer import TransformerConfig, transformer
from lm_jax.optimizers import make_optimizer

ROUNDS = flags.DEFINE_integer("rounds", 8, "Turns of each.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", None, "Where the JSON goes.")

LEARNING_RATE = 1e-3


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


def torch_turn(case: Case, batches: dict[str, np.ndarray]) -> Turn:
    """`case.steps` optimizer steps of eager PyTorch."""
    import torch

    from benchmarks.torch_gpt import Trainer

    trainer = Trainer(case.config)
    inputs, targets = (
        torch.from_numpy(batches[name].astype(np.int64)) for name in ("inputs", "targets")
    )

    def turn() -> None:
        for x, y in zip(inputs, targets, strict=True):
            trainer.step(x, y)

    return turn


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of each turn of both, in turns, after one that is not counted."""
    config = case.config
    batches = language_batches(
        case.steps, case.batch_size, config.context_length, config.vocab_size
    )
    optimizer = make_optimizer(OptimizerConfig(), lambda _: LEARNING_RATE)
    ours = training_turn(transformer(config), optimizer, batches)
    seconds = take_turns({"lm_jax": ours, "pytorch": torch_turn(case, batches)}, rounds)
    count = case.steps * case.batch_size * config.context_length
    return {
        "tokens_per_second": {n: count / v for n, v in seconds.medians().items()},
        **seconds.ratios(),
        "first_turn_seconds": seconds.first,
    }


def main(_: list[str]) -> None:
    """Prints a table, and writes the JSON where asked."""
    results: dict[str, Any] = {}
    print(f"{'tokens/s':34}{'lm_jax':>10}{'pytorch':>10}{'ratio':>8}   range")
    for name, case in CASES.items():
        result = results[name] = measure(case, ROUNDS.value)
        ours, theirs = result["tokens_per_second"].values()
        low, high = result["ratio_range"]
        ratio = result["ratio"]
        print(f"{name:34}{ours:10,.0f}{theirs:10,.0f}{ratio:8.2f}   {low:.2f} to {high:.2f}")
    write_results(OUTPUT.value, results)


if __name__ == "__main__":
    app.run(main)
