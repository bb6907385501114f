"""The experiments that a suite measures by default, and the pretraining of published models."""

import dataclasses
from typing import Any

from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    TrainingConfig,
)
from lm_jax.config.presets import preset
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.objectives.default_experiment import default_experiment

# The Adam of PyTorch's LSTM examples.
_ADAM = OptimizerConfig("adam", beta2=0.999, clip_norm=0.0)


def default_experiments(suite: str, accelerator: bool) -> dict[str, Experiment]:
    """Returns the experiments of a suite by name: small ones on CPU, GPT-2 on an accelerator.

    On CPU these are nanoGPT's settings for a CPU and for a small GPU. On an accelerator it is
    GPT-2 124M with context 1,024 and half a million tokens per step, its vocabulary rounded up to
    a multiple of 64.
    """
    if suite == "decode":
        return {"GPT-2 124M": published("gpt2_small")}
    if suite == "lstm":
        width, time, rows = (1024, 256, 64) if accelerator else (512, 64, 32)
        lstm = RecurrentConfig(65, context_length=time, num_layers=2, d_hidden=width)
        name = f"LSTM 2 x {width}, context {time}, batch {rows}"
        return {name: _experiment(lstm, rows, 8, optimizer=_ADAM)}
    if accelerator:
        gpt2 = published("gpt2_small")
        gpt2.model.vocab_size = 50_304
        gpt2.training.batch_size, gpt2.training.gradient_accumulation_steps = 512, 16
        gpt2.training.steps_per_call, gpt2.evaluation.batch_size = 2, 32
        return {"GPT-2 124M, context 1024, batch 512": gpt2}
    small = TransformerConfig(65, context_length=64, num_layers=4, d_model=128, num_heads=4)
    large = TransformerConfig(65, context_length=256, num_layers=6, d_model=384, num_heads=6)
    return {
        "4 x 128, context 64, batch 12": _experiment(small, 12, 40),
        "6 x 384, context 256, batch 8": _experiment(large, 8, 8),
    }


def published(name: str) -> Experiment:
    """Returns a preset on data of its kind, with 8 rows a step; nothing is read yet.

    Raises:
      UserError: no model of that name is known.
    """
    return _sized(default_experiment(preset(name)), 8, 8)


def _sized(experiment: Experiment, rows: int, steps: int) -> Experiment:
    """Returns the experiment with this many rows a step and steps a dispatch."""
    return dataclasses.replace(
        experiment,
        training=TrainingConfig(batch_size=rows, steps_per_call=steps),
        evaluation=EvaluationConfig(batch_size=rows),
    )


def _experiment(model: Any, rows: int, steps: int, **parts: Any) -> Experiment:
    return _sized(Experiment(model=model, **parts), rows, steps)
