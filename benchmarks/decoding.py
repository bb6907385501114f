"""Tokens per second of KV-cached greedy decoding on a CPU, beside Hugging Face's `generate`.

  python -m benchmarks.decoding --rounds=3 --output=benchmarks/results/decoding.json

A decoder of GPT-2's shape with random weights, 124M parameters in float32 on both sides, continues
prompts of one token, in one process and in turns, so that a machine whose speed drifts does so for
both. The figures are medians; the ratio is the median of the ratios of the turns. Both read all
parameters for every token, so beside the tokens stand the gigabytes of parameters and of cache that
they come to. Needs the packages torch and transformers, of the `torch` and `hf` extras.
"""

import functools
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.turns import Turn, take_turns, write_results
from lm_jax import decoding
from lm_jax.models.transformer import TransformerConfig, transformer
from lm_jax.sampling import Sampling
from lm_jax.scaling.accounting import count_parameters

ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of each.", lower_bound=1)
NEW_TOKENS = flags.DEFINE_integer("new_tokens", 128, "Tokens after the prompt.", lower_bound=1)
BATCH_SIZES = flags.DEFINE_multi_integer("batch_size", [1, 8], "Texts at once.", lower_bound=1)
THREADS = flags.DEFINE_integer("threads", len(os.sched_getaffinity(0)), "Of PyTorch.")
OUTPUT = flags.DEFINE_string("output", None, "Where the JSON goes.")

CONFIG = TransformerConfig(
    vocab_size=50_257, context_length=1024, num_layers=12, d_model=768, num_heads=12
)


def jax_turn(prompts: np.ndarray, new_tokens: int) -> Turn:
    """Continues prompts [B, 1] by `new_tokens` through `lm_jax.decoding`."""
    model = transformer(CONFIG)
    batch = {"inputs": jnp.zeros((1, 8), jnp.int32)}
    variables = jax.jit(lambda key: nn.unbox(model.init(key, batch)))(jax.random.key(0))
    greedy = Sampling(temperature=0.0)
    generate = jax.jit(
        functools.partial(decoding.generate, model, sampling=greedy, end_tokens=(-1,))
    )

    def turn() -> None:
        count, width = len(prompts), 1 + new_tokens
        tokens = np.pad(prompts, ((0, 0), (0, new_tokens)))
        lengths, limits = np.ones(count, np.int32), np.full(count, width, np.int32)
        found = generate(
            variables, tokens, lengths, limits, jax.random.split(jax.random.key(0), count)
        )
        assert np.asarray(found.lengths).tolist() == [width] * count

    return turn


def hugging_face_turn(prompts: np.ndarray, new_tokens: int) -> Turn:
    """The same through transformers."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(eos_token_id=None)).eval()

    def turn() -> None:
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


def measure(batch_size: int, rounds: int, new_tokens: int) -> dict[str, Any]:
    """Tokens per second of each, and the ratio of the turns."""
    prompts = np.random.default_rng(0).integers(0, 50_257, (batch_size, 1)).astype(np.int32)
    turns = {
        "lm_jax": jax_turn(prompts, new_tokens),
        "hugging_face": hugging_face_turn(prompts, new_tokens),
    }
    seconds = take_turns(turns, rounds)
    weights = 4 * count_parameters(CONFIG)["total"]
    cache = 4 * 2 * batch_size * CONFIG.num_layers * CONFIG.d_model * (1 + new_tokens)
    read = (weights + cache) * new_tokens / 1e9
    medians = seconds.medians()
    return {
        "tokens_per_second": {n: batch_size * new_tokens / s for n, s in medians.items()},
        "gigabytes_per_second": {n: read / s for n, s in medians.items()},
        **seconds.ratios(),
    }


def main(_: list[str]) -> None:
    """Prints a table, and writes the JSON where asked."""
    import torch
    import transformers

    torch.set_num_threads(THREADS.value)
    results: dict[str, Any] = {
        "transformers": transformers.__version__,
        "threads": THREADS.value,
        "new_tokens": NEW_TOKENS.value,
    }
    print(f"{'batch':>5} {'':13}{'tokens/s':>10}{'GB/s':>8}")
    for batch_size in BATCH_SIZES.value:
        result = measure(batch_size, ROUNDS.value, NEW_TOKENS.value)
        for name, rate in result["tokens_per_second"].items():
            bandwidth = result["gigabytes_per_second"][name]
            print(f"{batch_size:5} {name:13}{rate:10.1f}{bandwidth:8.1f}")
        low, high = result["ratio_range"]
        print(
            f"{batch_size:5} ratio {result['ratio']:.2f}, from {low:.2f} to {high:.2f}", flush=True
        )
        results[f"batch {batch_size}"] = result
    write_results(OUTPUT.value, results)


if __name__ == "__main__":
    app.run(main)
