"""The experiments that can run, checked before anything is read or compiled."""

from lm_jax.choices import choose
from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    field,
    sequences_per_step,
)
from lm_jax.config.validation import validate_values
from lm_jax.data.text.rows import WINDOWS
from lm_jax.errors import UserError
from lm_jax.models import family_name, family_of
from lm_jax.objectives import objective_of
from lm_jax.objectives.interface import is_served
from lm_jax.telemetry.loggers import LOGGERS
from lm_jax.training.optimizers import OPTIMIZERS
from lm_jax.training.schedules import SCHEDULES


def validate(experiment: Experiment) -> None:
    """Raises UserError, in one line, for a value or a combination that cannot run."""
    validate_values(experiment)
    choose(OPTIMIZERS, experiment.optimizer.name, "optimizer.name")
    choose(SCHEDULES, experiment.schedule.name, "schedule.name")
    choose(LOGGERS, experiment.logger, "logger")
    if experiment.training.stop_after_no_improvement and not experiment.evaluation.every_steps:
        raise UserError(
            "training.stop_after_no_improvement counts evaluations, and evaluation.every_steps is "
            "0: there is one at the end only; set evaluation.every_steps"
        )
    _validate_objective(experiment)
    _validate_batches(experiment)


def _validate_objective(experiment: Experiment) -> None:
    objective, family = objective_of(experiment), family_of(experiment.model)
    trained = experiment.fine_tuning.parameters
    if trained != "all" and not experiment.fine_tuning.workdir:
        what = "a head on another run's features" if trained == "head" else "updates of another run"
        raise UserError(
            f"fine_tuning.parameters={trained} trains {what}; give that run as fine_tuning.workdir"
        )
    kind, kinds = experiment.data.kind, objective.data_kinds
    if kind not in kinds:
        raise UserError(f"objective {objective.name} takes {' or '.join(kinds)} data, not {kind}")
    if not is_served(objective, family.objectives):
        raise UserError(
            f"objective {objective.name} does not fit model family "
            f"{family_name(experiment.model)}, which is for {' or '.join(family.objectives)}"
        )
    objective.validate(experiment)


def _validate_batches(experiment: Experiment) -> None:
    objective = objective_of(experiment)
    if objective.fixed_rows:
        _validate_batch_size_tokens(experiment)
    else:
        _refuse(experiment, "training.batch_size_tokens")
    if objective.in_windows:
        _validate_windows(experiment)
    else:
        _refuse(experiment, "evaluation.stride")
        _refuse(experiment, "evaluation.context_length")
        if (windows := experiment.evaluation.windows) != EvaluationConfig().windows:
            raise UserError(
                f"evaluation.windows is {windows}, which is about running text; objective "
                f"{experiment.objective} has none: leave it {EvaluationConfig().windows}"
            )
    sequences = sequences_per_step(experiment)
    parts = experiment.training.gradient_accumulation_steps
    if sequences % parts:
        raise UserError(
            f"a batch of {sequences} sequences does not divide into "
            f"training.gradient_accumulation_steps {parts}; change one of them"
        )
    if family_of(experiment.model).carries_state(experiment.model) and parts > 1:
        raise UserError(
            "model.carry_state needs training.gradient_accumulation_steps 1: "
            "each row of a batch carries its own state"
        )


def _refuse(experiment: Experiment, path: str) -> None:
    if field(experiment, path):
        raise UserError(
            f"{path} is about windows of a text, which objective "
            f"{experiment.objective} does not have; leave it 0"
        )


def _validate_batch_size_tokens(experiment: Experiment) -> None:
    tokens, context = experiment.training.batch_size_tokens, experiment.model.context_length
    if tokens % context:
        raise UserError(
            f"training.batch_size_tokens {tokens} is not a multiple of "
            f"model.context_length {context}; change one of them"
        )


def _validate_windows(experiment: Experiment) -> None:
    choose(WINDOWS, experiment.evaluation.windows, "evaluation.windows")
    context, evaluation = experiment.model.context_length, experiment.evaluation
    window = evaluation.context_length or context
    if window > context and not family_of(experiment.model).any_length:
        raise UserError(
            f"evaluation.context_length {window} is more than the model.context_length {context} "
            "that this model was made for"
        )
    if evaluation.stride > window:
        raise UserError(
            f"evaluation.stride {evaluation.stride} is longer than the context of {window}: "
            "tokens between windows would not be counted"
        )
