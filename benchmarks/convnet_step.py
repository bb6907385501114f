"""Images per second of a convolutional network's train step on a CPU, against PyTorch's.

  python -m benchmarks.convnet_step --rounds=15 --output=benchmarks/results/convnet_cpu.json

The network is the `keras` architecture (Conv16, pool, Conv32, pool, Dense128, Dense10) on random
28 x 28 x 1 images, 200 per step, with Adam. All run in one process, interleaved, so that a drift in
clock speed affects all. PyTorch runs eagerly, in both of its memory layouts; the ratio is the
median over the rounds of the faster layout's seconds over ours. Needs the `torch` extra.
"""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from lm_jax.benchmarking import train_step
from lm_jax.benchmarking.interleaved_timing import Work
from lm_jax.benchmarking.tables import table_of
from lm_jax.build import build_experiment
from lm_jax.config.experiment import Experiment, OptimizerConfig, ScheduleConfig, TrainingConfig
from lm_jax.data import ImageConfig
from lm_jax.models.convnet.model import ConvNetConfig
from lm_jax.telemetry.environment import environment, version
from lm_jax.telemetry.json_files import write_json

ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds of the interleaved timing.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", None, "The JSON file to write.")

LEARNING_RATE = 1e-3


class Measured(NamedTuple):
    """A network, its images and how many of them a step takes."""

    config: ConvNetConfig
    batch_size: int
    steps: int  # per call
    build: Callable[[], Any]
    """() -> PyTorch's module."""


def _keras() -> Any:
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def _resnet18() -> Any:
    from benchmarks.resnet_pytorch import resnet18

    return resnet18(3, 10)


def _images(architecture: str, side: int, channels: int) -> ConvNetConfig:
    return ConvNetConfig(
        architecture,
        num_classes=10,
        image_height=side,
        image_width=side,
        image_channels=channels,
    )


NETWORKS = {
    "the Keras network, batch 200": Measured(_images("keras", 28, 1), 200, 20, _keras),
    "ResNet-18 on 32 x 32, batch 64": Measured(_images("resnet18", 32, 3), 64, 1, _resnet18),
}
KERAS = next(iter(NETWORKS))


def torch_work(name: str, batches: Mapping[str, np.ndarray], channels_last: bool) -> Work:
    """Returns K steps of eager PyTorch with its fused Adam on images [K, B, h, w, c]."""
    import torch
    from torch import nn

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = NETWORKS[name].build().to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    inputs = [
        torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        for x in batches["inputs"]
    ]
    targets = torch.from_numpy(batches["targets"].astype(np.int64))

    def work() -> None:
        for x, y in zip(inputs, targets, strict=True):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return work


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Returns the figures of our train step and of PyTorch's in both layouts."""
    network = NETWORKS[name]
    experiment = Experiment(
        objective="classification",
        model=network.config,
        data=ImageConfig(),
        optimizer=OptimizerConfig("adam", beta2=0.999, clip_norm=0.0),
        schedule=ScheduleConfig("constant", LEARNING_RATE, warmup_steps=0),
        training=TrainingConfig(batch_size=network.batch_size, steps_per_call=network.steps),
    )
    layouts = {"pytorch": False, "pytorch channels last": True}
    baselines = {
        n: functools.partial(torch_work, name, channels_last=v) for n, v in layouts.items()
    }
    return train_step.measure(build_experiment(experiment, {}), rounds, baselines)


def main(_: list[str]) -> None:
    """Prints a table, and writes the JSON file if --output is given."""
    result = measure(KERAS, ROUNDS.value)
    for line in table_of({KERAS: result}):
        print(line)
    if OUTPUT.value:
        about = environment() | {"torch": version("torch")}
        write_json(Path(OUTPUT.value), {"environment": about} | result)


if __name__ == "__main__":
    app.run(main)
