"""Steps per second of small runs as one vmapped program, against the same runs one by one.

  python -m benchmarks.vmapped_throughput --output=benchmarks/results/vmapped_throughput.json

The runs are nanoGPT's CPU setting (0.8M parameters, 12 windows of 64) on random tokens, their
learning rates and seeds different. Timing is interleaved: a dispatch of all runs, then one of each.
"""

import copy
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from lm_jax.benchmarking.default_experiments import default_experiments
from lm_jax.benchmarking.interleaved_timing import time_interleaved
from lm_jax.benchmarking.train_step import prepare, random_batches
from lm_jax.build import build_experiment
from lm_jax.parallel import sharding
from lm_jax.runs.vmapped_runs import RunGroup
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json
from lm_jax.training.state import init_state
from lm_jax.training.train_step import jit_train_steps

RUNS = flags.DEFINE_integer("runs", 16, "The number of runs.", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 10, "Steps per dispatch.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of the interleaved timing.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "The JSON file to write.")


def main(_: list[str]) -> None:
    """Prints the figures, and writes the JSON file if --output is given."""
    name, base = next(iter(default_experiments("train", accelerator=False).items()))
    base.training.steps_per_call = STEPS.value
    members = []
    for index in range(RUNS.value):
        run = copy.deepcopy(base)
        run.seed = index
        run.schedule.peak_learning_rate *= 2 ** (index / 4 - 2)
        members.append(build_experiment(run, {}, jax.devices()[:1]))
    batches = random_batches(members[0], STEPS.value)
    single = prepare(members[0], batches)

    mesh = members[0].mesh
    group = RunGroup(members)
    steps = jit_train_steps(group.train_step())
    states = [
        init_state(p.model, p.optimizer, p.example, p.mesh, p.experiment.seed) for p in members
    ]
    holder = [group.stack(states)]
    repeated = {key: np.stack([x] * RUNS.value, axis=1) for key, x in batches.items()}
    placed = sharding.place_batch(repeated, sharding.batch_sharding(mesh, leading_axes=2))

    def together() -> None:
        with sharding.on_mesh(mesh):
            holder[0], _ = steps(holder[0], placed)
        jax.block_until_ready(holder[0])

    def one_by_one() -> None:
        for _ in members:
            single.work()

    timings = time_interleaved({"together": together, "one by one": one_by_one}, ROUNDS.value)
    count = STEPS.value * RUNS.value
    results: dict[str, Any] = {
        "environment": environment(),
        "model": name,
        "runs": RUNS.value,
        "steps_per_second": {way: timings.rate(way, count, count) for way in timings.rounds},
        **timings.ratios("together", ["one by one"]),
    }
    for way, rate in results["steps_per_second"].items():
        print(f"{way:12} {rate['per_second']:8.1f} steps/s")
    low, high = results["ratio_range"]
    print(
        f"{RUNS.value} runs together: {results['ratio']:.2f} ({low:.2f} to {high:.2f}) of the rate"
    )
    if OUTPUT.value:
        write_json(Path(OUTPUT.value), results)


if __name__ == "__main__":
    app.run(main)
