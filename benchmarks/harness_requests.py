"""Short requests of lm-evaluation-harness: our adapter beside its Hugging Face backend, in turns.

  pip install -e '.[harness]' torch accelerate
  python -m benchmarks.harness_requests --workdir=runs/smollm2 --model=exported/smollm2 \
      --output=benchmarks/results/harness_requests.json

--model is the folder that `launch.convert --to=hf` wrote of the run. A request is 10 to 40 words of
CPython's language reference and the three words that follow; as in the folder, no token opens it.
The first turn of each backend, which compiles, is measured apart.
"""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from lm_jax.data.embedded import python_reference
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
MODEL = flags.DEFINE_string(
    "model", None, "The same model as Hugging Face's folder.", required=True
)
REQUESTS = flags.DEFINE_integer("requests", 1000, "Requests of a backend, all turns together.")
TURNS = flags.DEFINE_integer("turns", 5, "Parts into which the requests are cut.")
BATCH = flags.DEFINE_integer("batch_size", 32, "Requests that Hugging Face reads at once.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def _pairs(count: int) -> list[tuple[str, str]]:
    rng, words = random.Random(0), " ".join(python_reference()).split()
    pairs = []
    for _ in range(count):
        first, length = rng.randrange(len(words) - 50), rng.randint(10, 40)
        end = first + length
        pairs.append((" ".join(words[first:end]), " " + " ".join(words[end : end + 3])))
    return pairs


def _backends() -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    import lm_jax
    from lm_jax.interop.harness import HarnessModel

    return {
        "lm_jax": HarnessModel(lm_jax.load(WORKDIR.value), begins=False),
        "hugging_face": HFLM(
            pretrained=MODEL.value, device="cpu", dtype="float32", batch_size=BATCH.value
        ),
    }


def _answers(backend: Any, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    return backend.loglikelihood(requests, disable_tqdm=True)


def _timed(backend: Any, pairs: list[tuple[str, str]]) -> tuple[Any, float, float]:
    started, processor = time.monotonic(), time.process_time()
    found = _answers(backend, pairs)
    return found, time.monotonic() - started, time.process_time() - processor


def main(_: list[str]) -> None:
    """Measures both in turns and prints their rates, their ratio, and how far answers differ."""
    pairs, backends = _pairs(REQUESTS.value), _backends()
    size = REQUESTS.value // TURNS.value
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in backends}
    answers: dict[str, list[tuple[float, bool]]] = {name: [] for name in backends}
    first = {n: _timed(b, pairs[:size])[1] for n, b in backends.items()}
    for turn in range(TURNS.value):
        part = pairs[turn * size : (turn + 1) * size]
        for name, backend in backends.items():
            found, seconds, processor = _timed(backend, part)
            times[name].append((seconds, processor))
            answers[name] += found
    ours, theirs = (np.array([nats for nats, _ in found]) for found in answers.values())
    ratios = [b[0] / a[0] for a, b in zip(*times.values(), strict=True)]
    result = {
        "requests": size * TURNS.value,
        "seconds": {name: sum(s for s, _ in each) for name, each in times.items()},
        "processor_seconds": {name: sum(p for _, p in each) for name, each in times.items()},
        "first_turn_seconds": first,
        "speed_over_hugging_face": {"median": float(np.median(ratios)), "turns": ratios},
        "largest_difference_nats": float(np.abs(ours - theirs).max()),
        "same_greedy": sum(a[1] == b[1] for a, b in zip(*answers.values(), strict=True)),
    }
    print(result)
    if OUTPUT.value:
        write_json(Path(OUTPUT.value), {"environment": environment()} | result)


if __name__ == "__main__":
    app.run(main)
