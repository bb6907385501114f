"""Seconds and memory for counting and smoothing a 5-gram model of 10 million tokens.

  python -m benchmarks.ngram_counting --output=benchmarks/results/ngram_counting.json

`words` are independent draws from Zipf's law over 50,000 ids in documents of 1,000 tokens, close to
the largest number of distinct n-grams that a text can have. `characters` come from the source of
the standard library, one document per file. Each case runs in its own process; its peak memory
includes JAX.
"""

import json
import multiprocessing
import resource
import sysconfig
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_TOKENS = flags.DEFINE_integer("tokens", 10_000_000, "Number of tokens.", lower_bound=1_000)
_ORDER = flags.DEFINE_integer("order", 5, "Largest n.", lower_bound=1, upper_bound=8)


class CountedDocuments(NamedTuple):
    """The part of a training split that `Model.fit` reads."""

    tokens: np.ndarray
    starts: np.ndarray


def zipfian_words(num_tokens: int) -> tuple[CountedDocuments, int]:
    """Returns random ids with probability proportional to 1 / rank, and the vocabulary size."""
    vocab_size, length = 50_000, 1_000
    weights = np.cumsum(1 / np.arange(1, vocab_size))
    drawn = np.random.default_rng(0).random(num_tokens) * weights[-1]
    tokens = np.searchsorted(weights, drawn).astype(np.int32)
    tokens[::length] = tokens[-1] = vocab_size - 1
    return CountedDocuments(tokens, np.flatnonzero(tokens == vocab_size - 1)), vocab_size


def source_characters(num_tokens: int) -> tuple[CountedDocuments, int]:
    """Returns the characters of the standard library and the number of kinds, end included."""
    parts, total = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or total > num_tokens:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        parts.append(np.frombuffer(f"\0{text}".encode("utf-32-le", "replace"), np.uint32))
        total += len(parts[-1])
    points = np.concatenate(parts)[:num_tokens]
    points[-1] = 0
    kinds, tokens = np.unique(points, return_inverse=True)
    return CountedDocuments(tokens.astype(np.int32), np.flatnonzero(tokens == 0)), len(kinds)


def measure(name: str, num_tokens: int, order: int) -> dict[str, Any]:
    """Returns seconds and bytes of counting and smoothing in this process."""
    import jax

    from lm_jax.models.ngram.model import NgramConfig, ngram

    documents, vocab_size = CASES[name](num_tokens)
    model = ngram(NgramConfig(vocab_size, order=order))
    assert model.fit is not None
    before = _peak_bytes()
    start, start_cpu = time.perf_counter(), time.process_time()
    variables = jax.block_until_ready(model.fit(documents))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    params = variables["params"]
    return {
        "tokens": len(documents.tokens),
        "documents": len(documents.starts) - 1,
        "vocab_size": vocab_size,
        "ngrams": [len(params[f"level_{n}"]["log_probability"]) for n in range(1, order + 1)],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # unaffected by other programs on the machine
        "tokens_per_second": len(documents.tokens) / seconds,
        "bytes_of_the_model": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        "peak_bytes_before": before,
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


CASES = {"words": zipfian_words, "characters": source_characters}


def main(_: list[str]) -> None:
    """Prints the results of all cases as one line of JSON."""
    from lm_jax.telemetry.environment import environment
    from lm_jax.telemetry.json_files import write_json

    results: dict[str, Any] = {"environment": environment(), "order": _ORDER.value}
    context = multiprocessing.get_context("spawn")
    for name in CASES:
        with context.Pool(1) as pool:
            results[name] = pool.apply(measure, (name, _TOKENS.value, _ORDER.value))
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), results)
    print(json.dumps(results))


if __name__ == "__main__":
    app.run(main)
