"""Timing in turns: one process does a little of each, so that a drifting machine drifts for all."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lm_jax import sharding, training
from lm_jax.models import Model
from lm_jax.telemetry import environment

Turn = Callable[[], None]


class Seconds(NamedTuple):
    """Seconds of the turns of each, by its name; ours is the first."""

    first: dict[str, float]  # with compilation, and not among the others
    turns: dict[str, list[float]]

    def medians(self) -> dict[str, float]:
        """The median of the turns of each."""
        return {name: statistics.median(values) for name, values in self.turns.items()}

    def ratios(self) -> dict[str, Any]:
        """How many times as long the quickest of the others takes as ours: median and range."""
        ours, *others = self.turns.values()
        pairs = zip(ours, *others, strict=True)
        ratios = sorted(min(theirs) / mine for mine, *theirs in pairs)
        return {
            "ratio": statistics.median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
        }


def take_turns(turns: Mapping[str, Turn], rounds: int) -> Seconds:
    """Seconds of so many rounds, in each of which every one takes its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - start)
    return Seconds(
        {name: values[0] for name, values in seconds.items()},
        {name: values[1:] for name, values in seconds.items()},
    )


def training_turn(
    model: Model, optimizer: optax.GradientTransformation, batches: Mapping[str, np.ndarray]
) -> Turn:
    """One dispatch of as many optimizer steps as there are batches [K, B, ...], on all devices."""
    mesh = sharding.make_mesh("data:-1")
    example = {name: value[0] for name, value in batches.items()}
    holder = [training.init_state(model, optimizer, example, mesh, seed=0)]
    step = training.make_train_step(model, optimizer, optax.constant_schedule(0.0))
    steps = training.jit_train_steps(step)
    placed = sharding.place_batch(batches, sharding.batch_sharding(mesh, leading_axes=1))

    def turn() -> None:
        with sharding.on_mesh(mesh):
            holder[0], _ = steps(holder[0], placed)
        jax.block_until_ready(holder[0])

    return turn


def language_batches(steps: int, batch_size: int, time: int, vocab_size: int) -> dict[str, Any]:
    """Random tokens as batches [steps, batch, time]."""
    shape = (steps, batch_size, time + 1)
    tokens = np.random.default_rng(0).integers(0, vocab_size, shape).astype(np.int32)
    weights = np.ones((steps, batch_size, time), np.float32)
    return {"inputs": tokens[:, :, :-1], "targets": tokens[:, :, 1:], "weights": weights}


def write_results(path: str | None, results: Mapping[str, Any]) -> None:
    """Writes the figures with the machine and the versions, where a path is given."""
    import torch

    if path:
        about = {"environment": environment() | {"torch": torch.__version__}}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(about | dict(results), indent=2) + "\n")
