"""MNIST and Fashion-MNIST, and the training budget of small networks on them.

MNIST is `mnist.npz` (arrays x_train, y_train, x_test, y_test), Fashion-MNIST a directory of idx
files; both are given as --config.data.path.
"""

from typing import Any

from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import ImageConfig


def mnist() -> ImageConfig:
    """Returns handwritten digits, 28 x 28."""
    return ImageConfig(source="npz", path="mnist.npz")


def fashion_mnist(**augmentation: Any) -> ImageConfig:
    """Returns pictures of clothes, 28 x 28; `augmentation` sets fields of ImageConfig."""
    names = "T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,boot"
    return ImageConfig(source="idx", path="fashion-mnist", label_names=names, **augmentation)


def on_images(
    images: ImageConfig,
    model: Any,
    *,
    num_steps: int,
    peak_learning_rate: float,
    warmup_steps: int = 100,
    weight_decay: float = 0.0,
) -> Experiment:
    """Returns the experiment of a network on images: batches of 200, AdamW, a cosine schedule."""
    return Experiment(
        objective="classification",
        model=model,
        data=images,
        optimizer=OptimizerConfig(name="adamw", weight_decay=weight_decay, clip_norm=0.0),
        schedule=ScheduleConfig(peak_learning_rate=peak_learning_rate, warmup_steps=warmup_steps),
        training=TrainingConfig(
            num_steps=num_steps, batch_size=200, steps_per_call=20, log_every_steps=20
        ),
        evaluation=EvaluationConfig(batch_size=500, every_steps=num_steps // 5),
    )
