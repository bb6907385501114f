"""The values that fields of an experiment can have; objectives/validation.py: combinations."""

from lm_jax.config.experiment import Experiment, SamplesConfig
from lm_jax.errors import UserError
from lm_jax.fields import validate_fields
from lm_jax.models import validate_model
from lm_jax.models.scale_width import of_width
from lm_jax.parallel import mesh


def validate_values(experiment: Experiment) -> None:
    """Raises UserError, in one line, for a field whose value cannot run by itself."""
    validate_fields(experiment, "")
    if experiment.mesh != mesh.AUTO:
        mesh.parse(experiment.mesh)
    _validate_samples(experiment.samples)
    validate_model(experiment.model)
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
