"""The values that fields of an experiment can have; objectives/validation.py: combinations."""

import math
from collections.abc import Mapping
from typing import Any

from lm_jax.config.experiment import Experiment, SamplesConfig, field
from lm_jax.config.fields import validate_fields
from lm_jax.config.serialization import to_dict
from lm_jax.errors import UserError
from lm_jax.models.scale_width import of_width
from lm_jax.parallel import mesh

_CHOICES = {
    "fine_tuning.parameters": ("all", "head"),
    "compute_dtype": ("auto", "float32", "bfloat16"),
}
_AT_LEAST = {
    "denoising.mean_span_length": 1,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "optimizer.epsilon": 0,
    "optimizer.adam_learning_rate_ratio": 0,
    "schedule.warmup_steps": 0,
    "schedule.peak_learning_rate": 0,
    "training.num_steps": 1,
    "training.batch_size": 1,
    "training.batch_size_tokens": 0,
    "training.gradient_accumulation_steps": 1,
    "training.steps_per_call": 1,
    "training.log_every_steps": 1,
    "checkpoint.every_steps": 0,
    "checkpoint.keep_last": 1,
    "checkpoint.keep_best": 0,
    "mup_base_width": 0,
    "seed": 0,
}


def validate_values(experiment: Experiment) -> None:
    """Raises UserError, in one line, for a field whose value cannot run by itself."""
    for path, choices in _CHOICES.items():
        if (given := field(experiment, path)) not in choices:
            raise UserError(f"{path} is {given!r}; expected one of {', '.join(choices)}")
    for path, least in _AT_LEAST.items():
        if not (given := field(experiment, path)) >= least:
            raise UserError(f"{path} is {given}; expected at least {least}")
    validate_fields(experiment.evaluation, "evaluation")
    validate_fields(experiment.samples, "samples")
    _validate_finite(to_dict(experiment), "")
    if experiment.mesh != mesh.AUTO:
        mesh.parse(experiment.mesh)
    for path in ("optimizer.beta1", "optimizer.beta2"):
        if not 0 <= (given := field(experiment, path)) < 1:
            raise UserError(f"{path} is {given}; expected 0 <= beta < 1")
    if not 0 <= (given := experiment.training.label_smoothing) < 1:
        raise UserError(f"training.label_smoothing is {given}; expected 0 <= share < 1")
    for path in ("schedule.final_fraction", "schedule.decay_fraction"):
        if not 0 <= (given := field(experiment, path)) <= 1:
            raise UserError(f"{path} is {given}; expected a fraction between 0 and 1")
    if not 0 < experiment.denoising.fraction < 1:
        raise UserError(
            f"denoising.fraction is {experiment.denoising.fraction}; expected 0 < fraction < 1"
        )
    _validate_samples(experiment.samples)
    experiment.model.validate()
    if experiment.mup_base_width:
        of_width(experiment.model, experiment.mup_base_width)
    experiment.data.validate()
    schedule, steps = experiment.schedule, experiment.training.num_steps
    if schedule.warmup_steps >= steps:
        raise UserError(
            f"schedule.warmup_steps {schedule.warmup_steps} leaves no step of training.num_steps "
            f"{steps} at the peak; warm up for fewer"
        )


def _validate_samples(samples: SamplesConfig) -> None:
    if samples.num_best > samples.num_beams:
        raise UserError(
            f"samples.num_best is {samples.num_best}, but {samples.num_beams} beams find no more "
            f"than {samples.num_beams}; raise samples.num_beams"
        )


def _validate_finite(tree: Mapping[str, Any], prefix: str) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _validate_finite(value, f"{prefix}{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{prefix}{name} is {value}; expected a finite number")
