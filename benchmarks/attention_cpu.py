"""Attention by blocks on one CPU core, against the plain path and PyTorch's fused kernel.

  NPROC=1 python -m benchmarks.attention_cpu --output=benchmarks/results/attention_cpu.json

Causal attention forward and backward, 8,192 tokens of 4 heads of 32 at each context, float32. All
run in one process in turns. Times are of the processor, since they also hold on a busy machine.
Needs the `torch` extra.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from lm_jax.benchmarking.interleaved_timing import Work, quartiles, time_interleaved
from lm_jax.models.transformer.attention import Tokens, attend, visible
from lm_jax.models.transformer.blockwise_attention import Blocking, blockwise_attend
from lm_jax.telemetry.environment import environment, version
from lm_jax.telemetry.json_files import write_json

ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of the interleaved timing.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", None, "The JSON file to write.")
TOKENS, HEADS, WIDTH = 8192, 4, 32
CONTEXTS = (256, 512, 1024, 4096)


def _plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    index = jnp.arange(q.shape[1])[None]
    return attend(q, k, v, visible(index, index), causal=True)


def _blockwise(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    tokens = Tokens(jnp.broadcast_to(jnp.arange(q.shape[1]), q.shape[:2]))
    return blockwise_attend(Blocking(causal=True), q, k, v, None, tokens, tokens)


def _ours(attention: Callable[..., jax.Array], given: list[np.ndarray]) -> Work:
    q, k, v, direction = map(jnp.asarray, given)
    total = lambda *qkv: jnp.sum(attention(*qkv) * direction)  # noqa: E731
    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(q, k, v).compile()
    return lambda: jax.block_until_ready(gradient(q, k, v)) and None


def _pytorch(given: list[np.ndarray]) -> Work:
    import torch

    torch.set_num_threads(1)
    *tensors, direction = (torch.from_numpy(x).transpose(1, 2) for x in given)

    def work() -> None:
        q, k, v = (x.detach().requires_grad_() for x in tensors)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y.backward(direction)

    return work


def measure(context: int, rounds: int) -> dict[str, Any]:
    """Returns milliseconds by name, and PyTorch's time over each of ours."""
    rng = np.random.default_rng(0)
    shape = (TOKENS // context, context, HEADS, WIDTH)
    given = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
    work = {"pytorch": _pytorch(given), "xla": _ours(_plain, given)}
    work["blockwise"] = _ours(_blockwise, given)
    timings = time_interleaved(work, rounds, clock=time.process_time)
    medians = {name: 1e3 * quartiles(timings.rounds[name])[1] for name in work}
    ratios = {name: timings.ratios(name, ["pytorch"]) for name in ("xla", "blockwise")}
    return {"milliseconds": medians, "ratios": ratios}


def main(_: list[str]) -> None:
    """Prints a line per context, and writes the JSON file if --output is given."""
    found = {}
    for context in CONTEXTS:
        found[str(context)] = measure(context, ROUNDS.value)
        print(context, found[str(context)], flush=True)
    if OUTPUT.value:
        about = environment() | {"torch": version("torch")}
        write_json(Path(OUTPUT.value), {"environment": about, "contexts": found})


if __name__ == "__main__":
    app.run(main)
