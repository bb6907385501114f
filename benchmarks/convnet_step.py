"""Images per second of a convolutional network's train step on a CPU, beside PyTorch.

  python -m benchmarks.convnet_step --rounds=15 --output=benchmarks/results/convnet_cpu.json

The network is the `keras` architecture (Conv16, pool, Conv32, pool, Dense128, Dense10) on random
28 x 28 x 1 images, 200 a step, with Adam. All run in one process, in turns, so that a machine
whose speed drifts does so for all. PyTorch runs eagerly, in either of its memory layouts; the
ratio is the median over the turns of the faster layout's seconds over ours. Needs the `torch`
extra.
"""

from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.turns import Turn, take_turns, training_turn, write_results
from lm_jax.experiment import OptimizerConfig
from lm_jax.models.convnet import ConvNetConfig, convnet
from lm_jax.optimizers import make_optimizer

ROUNDS = flags.DEFINE_integer("rounds", 15, "Turns of each.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", None, "Where the JSON goes.")

BATCH_SIZE, STEPS = 200, 20  # images a step, steps a turn
LEARNING_RATE = 1e-3
CONFIG = ConvNetConfig("keras", num_classes=10, image_height=28, image_width=28, image_channels=1)


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Random images [steps, batch, 28, 28, 1] and labels [steps, batch]."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(STEPS, BATCH_SIZE, 28, 28, 1)).astype(np.float32)
    return images, rng.integers(0, 10, (STEPS, BATCH_SIZE)).astype(np.int32)


def torch_turn(images: np.ndarray, labels: np.ndarray, channels_last: bool) -> Turn:
    """As many steps of eager PyTorch with its fused Adam."""
    import torch
    from torch import nn

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    inputs = [
        torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout) for x in images
    ]
    targets = torch.from_numpy(labels.astype(np.int64))

    def turn() -> None:
        for x, y in zip(inputs, targets, strict=True):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    return turn


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of each turn of all, in turns, after one that is not counted."""
    images, labels = images_and_labels()
    optimizer = make_optimizer(
        OptimizerConfig("adam", beta2=0.999, clip_norm=0.0), lambda _: LEARNING_RATE
    )
    weights = np.ones(labels.shape, np.float32)
    batches = {"inputs": images, "targets": labels, "weights": weights}
    turns = {
        "lm_jax": training_turn(convnet(CONFIG), optimizer, batches),
        "pytorch": torch_turn(images, labels, channels_last=False),
        "pytorch channels last": torch_turn(images, labels, channels_last=True),
    }
    seconds = take_turns(turns, rounds)
    medians = seconds.medians()
    return {
        "milliseconds_per_step": {n: 1e3 * v / STEPS for n, v in medians.items()},
        "images_per_second": {n: STEPS * BATCH_SIZE / v for n, v in medians.items()},
        **seconds.ratios(),
        "first_turn_seconds": seconds.first,
    }


def main(_: list[str]) -> None:
    """Prints a table, and writes the JSON where asked."""
    result = measure(ROUNDS.value)
    for name, speed in result["images_per_second"].items():
        print(f"{name:24}{speed:10,.0f} images/s")
    low, high = result["ratio_range"]
    print(f"{'ratio':24}{result['ratio']:10.2f}   {low:.2f} to {high:.2f}")
    write_results(OUTPUT.value, result)


if __name__ == "__main__":
    app.run(main)
