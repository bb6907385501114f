"""The configuration of one run: a tree of dataclasses.

A model and its data are declared beside the code that reads them (`lm_jax/models/`,
`lm_jax/data/`), all other parts in `lm_jax/config/parts.py`. `lm_jax/config/validation.py`
and `lm_jax/objectives/validation.py` check them.
"""

import dataclasses
from typing import Any

from lm_jax.config.parts import (
    CheckpointConfig,
    DenoisingConfig,
    EvaluationConfig,
    FineTuningConfig,
    OptimizerConfig,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data.text.config import DataConfig
from lm_jax.fields import described
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.parallel import mesh as meshes
from lm_jax.plurals import counted


@dataclasses.dataclass
class Experiment:
    """One run, whole: what `configs/*.py` return and `config.json` records."""

    objective: str = described(
        "causal_lm", "What the model is trained to do.", choices_in="lm_jax.objectives:OBJECTIVES"
    )
    model: Any = dataclasses.field(default_factory=TransformerConfig)  # a family's configuration
    mup_base_width: int = described(
        0,
        "0: standard parametrization; else muP, equal to it at this d_model (or d_hidden, or "
        "d_embedding: the first of the family's widths).",
        minimum=0,
    )
    data: Any = dataclasses.field(default_factory=DataConfig)  # one of lm_jax.data.config.KINDS
    denoising: DenoisingConfig = dataclasses.field(default_factory=DenoisingConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    mesh: str = described(
        meshes.AUTO,
        "Devices on each axis, such as data:2,fsdp:-1 (-1: all the rest), or auto: see "
        "lm_jax/parallel/mesh.py.",
    )
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    fine_tuning: FineTuningConfig = dataclasses.field(default_factory=FineTuningConfig)
    samples: SamplesConfig = dataclasses.field(default_factory=SamplesConfig)
    seed: int = described(
        0, "Seed of parameters, data order and dropout.", minimum=0, maximum=2**32 - 1
    )
    compute_dtype: str = described(
        "auto",
        "What products are computed in; auto: bfloat16 on accelerators, float32 on CPUs. "
        "Parameters and losses are float32.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    tensorboard: bool = described(True, "Write metrics for TensorBoard.")
    logger: str = described(
        "none",
        "Where metrics go, too (docs/logging.md).",
        choices_in="lm_jax.telemetry.loggers:LOGGERS",
    )


def field(config: Any, path: str) -> Any:
    """Returns the value at a dotted path, such as `model.d_model`."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def with_shorter_warmup(experiment: Experiment, begun: Experiment | None = None) -> Experiment:
    """Returns the experiment, with a tenth of its steps as warm-up if its own took all of them.

    `launch.train` and `lm_jax.train` call it unless a flag, or an entry of `changes`, sets the
    warm-up. In sweeps it stays as it is given, or is refused.

    Args:
      begun: the run that is continued. If it was begun with a shorter warm-up than this one by the
        same rule, that one stays, so that the run can be trained longer.
    """
    asked, num_steps = experiment.schedule.warmup_steps, experiment.training.num_steps
    kept = _warmup_within(num_steps, asked)
    if begun is not None:
        theirs = begun.schedule.warmup_steps
        if theirs < num_steps and theirs == _warmup_within(begun.training.num_steps, asked):
            kept = theirs
    if kept == asked:
        return experiment
    schedule = dataclasses.replace(experiment.schedule, warmup_steps=kept)
    return dataclasses.replace(experiment, schedule=schedule)


def _warmup_within(num_steps: int, asked: int) -> int:
    return asked if asked < num_steps else num_steps // 10


def shorter_warmup_note(given: Experiment, experiment: Experiment) -> str:
    """Returns a line on what `with_shorter_warmup` changed; "" if it changed nothing."""
    asked, kept = given.schedule.warmup_steps, experiment.schedule.warmup_steps
    if asked < experiment.training.num_steps:
        return ""
    return (
        f"schedule.warmup_steps: {kept}, not the configuration's {asked}, because training has "
        f"only {counted(experiment.training.num_steps, 'step')}"
    )


def sequences_per_step(experiment: Experiment) -> int:
    """Returns the global batch size in sequences or images, however it is configured."""
    training = experiment.training
    if not training.batch_size_tokens:
        return training.batch_size
    return training.batch_size_tokens // experiment.model.context_length
