"""Tokens per second of KV-cached greedy decoding on a CPU, beside Hugging Face's `generate`.

  python -m benchmarks.decoding --rounds=3 --output=benchmarks/results/decoding.json

A decoder of GPT-2's shape with random weights, 124M parameters in float32 on both sides, continues
prompts of one token, in one process and in turns, so that a machine whose speed drifts does so for
both. The figures are medians; the ratio is the median of the ratios of the turns. Both read all
parameters for every token, so beside the tokens stand the gigabytes of parameters and of cache that
they come to. Needs the packages torch and transformers, of the `torch` and `hf` extras.
"""

import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from lm_jax import decoding
from lm_jax.models.transformer import TransformerConfig, transformer
from lm_jax.scaling.accounting import count_parameters
from lm_jax.telemetry import environment

ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of each.", lower_bound=1)
NEW_TOKENS = flags.DEFINE_integer("new_tokens", 128, "Tokens after the prompt.", lower_bound=1)
BATCH_SIZES = flags.DEFINE_multi_integer("batch_size", [1, 8], "Texts at once.", lower_bound=1)
THREADS = flags.DEFINE_integer("threads", len(os.sched_getaffinity(0)), "Of PyTorch.")
OUTPUT = flags.DEFINE_string("output", None, "Where the JSON goes.")

CONFIG = TransformerConfig(
    vocab_size=50_257, context_length=1024, num_layers=12, d_model=768, num_heads=12
)
Turn = Callable[[np.ndarray], None]


def jax_turn(new_tokens: int) -> Turn:
    """Continues prompts [B, 1] by `new_tokens` through `lm_jax.decoding`."""
    model = transformer(CONFIG)
    batch = {"inputs": jnp.zeros((1, 8), jnp.int32)}
    variables = jax.jit(lambda key: nn.unbox(model.init(key, batch)))(jax.random.key(0))
    greedy = decoding.Sampling(temperature=0.0)
    generate = jax.jit(functools.partial(decoding.generate, model, sampling=greedy, end_token=-1))

    def turn(prompts: np.ndarray) -> None:
        count, width = len(prompts), 1 + new_tokens
        tokens = np.pad(prompts, ((0, 0), (0, new_tokens)))
        lengths, limits = np.ones(count, np.int32), np.full(count, width, np.int32)
        found = generate(variables, tokens, lengths, limits, jax.random.key(0))
        assert np.asarray(found[1]).tolist() == [width] * count

    return turn


def hugging_face_turn(new_tokens: int) -> Turn:
    """The same through transformers."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(eos_token_id=None)).eval()

    def turn(prompts: np.ndarray) -> None:
        tokens = torch.tensor(prompts).long()
        with torch.inference_mode():
            found = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=0,
            )
        assert found.shape == (len(prompts), 1 + new_tokens)

    return turn


def measure(turns: dict[str, Turn], batch_size: int, rounds: int, new_tokens: int) -> dict:
    """Tokens per second of each, and the ratio of the turns; the first turn is left out."""
    prompts = np.random.default_rng(0).integers(0, 50_257, (batch_size, 1)).astype(np.int32)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn(prompts)
            seconds[name].append(time.perf_counter() - start)
    kept = {name: values[1:] for name, values in seconds.items()}
    pairs = zip(kept["hugging_face"], kept["lm_jax"], strict=True)
    ratios = sorted(theirs / ours for theirs, ours in pairs)
    weights = 4 * count_parameters(CONFIG)["total"]
    cache = 4 * 2 * batch_size * CONFIG.num_layers * CONFIG.d_model * (1 + new_tokens)
    median = {name: statistics.median(values) for name, values in kept.items()}
    return {
        "tokens_per_second": {n: batch_size * new_tokens / s for n, s in median.items()},
        "gigabytes_per_second": {
            n: (weights + cache) * new_tokens / s / 1e9 for n, s in median.items()
        },
        "ratio_to_hugging_face": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
    }


def main(_: list[str]) -> None:
    """Prints a table, and writes the JSON where asked."""
    import torch
    import transformers

    torch.set_num_threads(THREADS.value)
    new_tokens = NEW_TOKENS.value
    turns = {"lm_jax": jax_turn(new_tokens), "hugging_face": hugging_face_turn(new_tokens)}
    results: dict[str, Any] = {}
    print(f"{'batch':>5} {'':13}{'tokens/s':>10}{'GB/s':>8}")
    for batch_size in BATCH_SIZES.value:
        result = measure(turns, batch_size, ROUNDS.value, new_tokens)
        for name, rate in result["tokens_per_second"].items():
            bandwidth = result["gigabytes_per_second"][name]
            print(f"{batch_size:5} {name:13}{rate:10.1f}{bandwidth:8.1f}")
        low, high = result["ratio_range"]
        ratio = result["ratio_to_hugging_face"]
        print(f"{batch_size:5} ratio {ratio:.2f}, from {low:.2f} to {high:.2f}", flush=True)
        results[f"batch {batch_size}"] = result
    if OUTPUT.value:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        about = {
            "environment": environment() | versions,
            "threads": THREADS.value,
            "new_tokens": new_tokens,
        }
        Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        Path(OUTPUT.value).write_text(json.dumps(about | results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
