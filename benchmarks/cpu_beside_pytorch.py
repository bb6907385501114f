"""Train steps and evaluation on a CPU beside PyTorch, one table for all kinds of work.

  python -m benchmarks.cpu_beside_pytorch --rounds=5 --output=machine.json

Decoders run as in `launch.benchmark`, convolutional networks as in `benchmarks.convnet_step`, in
both layouts of PyTorch; prompts are read beside Hugging Face's `generate`. All of a cell runs in
one process in turns; a ratio is the median over rounds of PyTorch's seconds over ours. --only takes
the cells whose names hold a text. Needs the `torch` extra, transformers and idle cores: beside
other work two threads of PyTorch wait for each other by spinning, and its figures are too slow.
`taskset -c 0` in front measures one core.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from benchmarks import convnet_step
from lm_jax.benchmarking import decode, evaluate, train_step
from lm_jax.benchmarking.default_experiments import published
from lm_jax.benchmarking.pytorch_baseline import find_baselines
from lm_jax.benchmarking.tables import table_of
from lm_jax.build import build_experiment
from lm_jax.config.experiment import EvaluationConfig, Experiment, TrainingConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.telemetry.environment import environment, version
from lm_jax.telemetry.json_files import write_json

TORCH = flags.DEFINE_enum("torch", "eager", ("eager", "compile"), "How PyTorch's decoders run.")
ONLY = flags.DEFINE_string("only", "", "Measure the cells whose names hold this text.")

Cell = Callable[[], dict[str, Any]]
TOKENS = 8192  # a step of the cells of one context each
LLAMA = {
    **{"num_kv_heads": 2, "norm": "rms_norm", "activation": "swiglu", "positions": "rotary"},
    **{"use_bias": False, "tie_embeddings": False},
}


def _decoder(
    shape: tuple[int, int, int, int], vocabulary: int, rows: int, steps: int, **choices: Any
) -> Experiment:
    """Returns an experiment on a decoder.

    Args:
      shape: layers, width, heads and context.
      rows: sequences per step.
      steps: optimizer steps per dispatch.
    """
    layers, width, heads, context = shape
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads}
    model = TransformerConfig(vocabulary, context_length=context, **sizes, **choices)  # type: ignore[arg-type]
    return Experiment(
        model=model,
        training=TrainingConfig(batch_size=rows, steps_per_call=steps),
        evaluation=EvaluationConfig(batch_size=rows),
    )


def _train(experiment: Experiment) -> dict[str, Any]:
    built = build_experiment(experiment, {"vocab_size": 1})
    baselines = find_baselines(built, TORCH.value)
    result = train_step.measure(built, convnet_step.ROUNDS.value, baselines.training)
    return result | {"baseline": baselines.note}


def _evaluate(experiment: Experiment) -> dict[str, Any]:
    built = build_experiment(experiment, {"vocab_size": 1})
    baselines = find_baselines(built, TORCH.value)
    result = evaluate.measure(built, 4, convnet_step.ROUNDS.value, baselines.evaluation)
    return result | {"baseline": baselines.note}


def _read_prompt(batch_size: int) -> dict[str, Any]:
    built = build_experiment(published("gpt2_small"), {"vocab_size": 1})
    rounds = convnet_step.ROUNDS.value
    return decode.measure(built, batch_size, 1, rounds, TORCH.value, prompt_tokens=256)


def cells() -> dict[str, Cell]:
    """Returns what is measured, by name."""
    large = _decoder((6, 384, 6, 256), 65, 8, 2)
    decoders = {
        "4 x 128, context 64, batch 12": _decoder((4, 128, 4, 64), 65, 12, 40),
        "6 x 384, context 256, batch 8": large,
        "Llama-like 6 x 384, context 256, batch 8": _decoder((6, 384, 6, 256), 65, 8, 2, **LLAMA),
        "12 x 512, context 512, batch 4, vocabulary 8,192": _decoder((12, 512, 8, 512), 8192, 4, 1),
    }
    for context in (256, 512, 1024, 2048, 4096):
        shape, rows = (2, 128, 4, context), TOKENS // context
        decoders[f"2 x 128, context {context:,}, batch {rows}"] = _decoder(shape, 65, rows, 2)
    found: dict[str, Cell] = {n: functools.partial(_train, e) for n, e in decoders.items()}
    found["evaluation, 6 x 384, context 256, batch 8"] = functools.partial(_evaluate, large)
    for rows in (1, 8):
        name = f"reading prompts of 256 tokens, GPT-2 124M, batch {rows}"
        found[name] = functools.partial(_read_prompt, rows)
    for name in convnet_step.NETWORKS:
        found[name] = functools.partial(convnet_step.measure, name, convnet_step.ROUNDS.value)
    return found


def main(_: list[str]) -> None:
    """Prints a table, and writes the JSON file after each cell if --output is given."""
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured, too
    chosen = {name: cell for name, cell in cells().items() if ONLY.value in name}
    if not chosen:
        raise app.UsageError(f"no cell's name holds {ONLY.value!r}: {', '.join(cells())}")
    results: dict[str, Any] = {}
    for name, cell in chosen.items():
        results[name] = cell()
        print(f"{name}: {results[name].get('ratio', float('nan')):.2f}", flush=True)
        if convnet_step.OUTPUT.value:
            about = environment() | {"torch": version("torch")}
            write_json(Path(convnet_step.OUTPUT.value), {"environment": about, "cells": results})
    print("\n".join(table_of(results)))


if __name__ == "__main__":
    app.run(main)
