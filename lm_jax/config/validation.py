"""Which experiments can run: values and combinations, before anything is read or compiled."""

import math
from collections.abc import Mapping
from typing import Any

from lm_jax.config.experiment import (
    DATA_OF_OBJECTIVE,
    Experiment,
    SamplesConfig,
    field,
    sequences_per_step,
    variant,
)
from lm_jax.config.serialization import to_dict
from lm_jax.errors import UserError
from lm_jax.models import FAMILIES
from lm_jax.models.scale_width import of_width
from lm_jax.parallel import mesh

_CHOICES = {
    "optimizer.name": ("adamw", "adam", "sgd", "adafactor", "lion", "muon"),
    "schedule.name": ("constant", "linear", "cosine", "rsqrt", "wsd"),
    "fine_tuning.parameters": ("all", "head"),
    "samples.length_penalty_kind": ("power", "gnmt"),
    "samples.early_stopping": ("false", "true", "never"),
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
    "evaluation.every_steps": 0,
    "evaluation.batch_size": 1,
    "evaluation.stride": 0,
    "evaluation.context_length": 0,
    "checkpoint.every_steps": 0,
    "checkpoint.keep_last": 1,
    "checkpoint.keep_best": 0,
    "samples.num_samples": 0,
    "samples.max_new_tokens": 1,
    "samples.temperature": 0,
    "samples.top_k": 0,
    "samples.num_beams": 1,
    "samples.num_best": 1,
    "mup_base_width": 0,
    "seed": 0,
}
_OF_WINDOWS = ("evaluation.stride", "evaluation.context_length")


def validate(experiment: Experiment) -> None:
    """Raises UserError, in one line, for a value or a combination that cannot run."""
    for path, choices in _CHOICES.items():
        if (given := field(experiment, path)) not in choices:
            raise UserError(f"{path} is {given!r}; expected one of {', '.join(choices)}")
    for path, least in _AT_LEAST.items():
        if not (given := field(experiment, path)) >= least:
            raise UserError(f"{path} is {given}; expected at least {least}")
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
    _validate_objective(experiment)
    experiment.model.validate()
    if experiment.mup_base_width:
        of_width(experiment.model, experiment.mup_base_width)
    experiment.data.validate()
    _validate_batches(experiment)
    schedule, steps = experiment.schedule, experiment.training.num_steps
    if schedule.warmup_steps >= steps:
        raise UserError(
            f"schedule.warmup_steps {schedule.warmup_steps} leaves no step of training.num_steps "
            f"{steps} at the peak; warm up for fewer"
        )


def _validate_samples(samples: SamplesConfig) -> None:
    if not 0 < samples.top_p <= 1:
        raise UserError(f"samples.top_p is {samples.top_p}; expected 0 < top_p <= 1")
    if not 0 <= samples.min_p <= 1:
        raise UserError(f"samples.min_p is {samples.min_p}; expected 0 <= min_p <= 1")
    if not samples.repetition_penalty > 0:
        raise UserError(
            f"samples.repetition_penalty is {samples.repetition_penalty}; expected above 0"
        )
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


def _validate_objective(experiment: Experiment) -> None:
    objective, family = experiment.objective, variant("model", experiment.model)
    if objective not in DATA_OF_OBJECTIVE:
        known = ", ".join(DATA_OF_OBJECTIVE)
        raise UserError(f"objective is {objective!r}; expected one of {known}")
    if experiment.fine_tuning.parameters == "head" and not experiment.fine_tuning.workdir:
        raise UserError(
            "fine_tuning.parameters=head trains a head on another run's features; "
            "give that run as fine_tuning.workdir"
        )
    kind, kinds = variant("data", experiment.data), DATA_OF_OBJECTIVE[objective]
    if kind not in kinds:
        raise UserError(f"objective {objective} takes {' or '.join(kinds)} data, not {kind}")
    if objective not in FAMILIES[family].objectives:
        raise UserError(
            f"objective {objective} does not fit model family {family}, "
            f"which is for {' or '.join(FAMILIES[family].objectives)}"
        )
    if objective == "masked_lm" and experiment.model.num_classes:
        raise UserError(
            f"model.num_classes is {experiment.model.num_classes}, but objective masked_lm "
            "predicts tokens; leave it 0"
        )
    reads = "images" if hasattr(experiment.model, "image_height") else "labelled_text"
    if objective == "classification" and kind != reads:
        raise UserError(f"model family {family} takes {reads} data, not {kind}")


def _validate_batches(experiment: Experiment) -> None:
    training = experiment.training
    if experiment.objective in ("skip_gram", "classification"):
        _refuse(experiment, ("training.batch_size_tokens",))
    else:
        _validate_batch_size_tokens(experiment)
    if experiment.objective == "causal_lm":
        _validate_windows(experiment)
    else:
        _refuse(experiment, _OF_WINDOWS)
    sequences, parts = sequences_per_step(experiment), training.gradient_accumulation_steps
    if sequences % parts:
        raise UserError(
            f"a batch of {sequences} sequences does not divide into "
            f"training.gradient_accumulation_steps {parts}; change one of them"
        )


def _refuse(experiment: Experiment, paths: tuple[str, ...]) -> None:
    for path in paths:
        if field(experiment, path):
            raise UserError(
                f"{path} is about windows of a text, which objective {experiment.objective} "
                "does not have; leave it 0"
            )


def _validate_batch_size_tokens(experiment: Experiment) -> None:
    tokens, context = experiment.training.batch_size_tokens, experiment.model.context_length
    if tokens % context:
        raise UserError(
            f"training.batch_size_tokens {tokens} is not a multiple of "
            f"model.context_length {context}; change one of them"
        )


def _validate_windows(experiment: Experiment) -> None:
    training, context = experiment.training, experiment.model.context_length
    evaluation = experiment.evaluation
    window = evaluation.context_length or context
    if window > context and not FAMILIES[variant("model", experiment.model)].any_length:
        raise UserError(
            f"evaluation.context_length {window} is more than the model.context_length {context} "
            "that this model was made for"
        )
    if evaluation.stride > window:
        raise UserError(
            f"evaluation.stride {evaluation.stride} is longer than the context of {window}: "
            "tokens between windows would not be counted"
        )
    if getattr(experiment.model, "carry_state", False) and training.gradient_accumulation_steps > 1:
        raise UserError(
            "model.carry_state needs training.gradient_accumulation_steps 1: "
            "each row of a batch carries its own state"
        )
