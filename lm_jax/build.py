"""An experiment as functions: the model, the optimizer, the step, the batches, the measures."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lm_jax import data
from lm_jax.config.experiment import EvaluationConfig, Experiment, sequences_per_step
from lm_jax.data.documents import consecutive, ranges
from lm_jax.data.interface import Batches
from lm_jax.errors import MeshError, UserError
from lm_jax.evaluation.loss_sums import DocumentSums, MeasuredFunction, sum_by_document
from lm_jax.models import Model, build_model, family_of
from lm_jax.models.interface import LossFunction, Variables
from lm_jax.models.low_rank import LowRank, with_updates
from lm_jax.models.parameters import Declarations, declarations
from lm_jax.models.scale_width import of_width
from lm_jax.models.target import made_for
from lm_jax.objectives import Objective, objective_of
from lm_jax.objectives.interface import loss_function
from lm_jax.objectives.validation import validate
from lm_jax.parallel import sharding
from lm_jax.parallel.mesh import AUTO, automatic
from lm_jax.training import state
from lm_jax.training.gradients import Gradients, make_gradients
from lm_jax.training.loss_scaling import scaling
from lm_jax.training.mup import configurations, fan_in_out, with_initial_sizes, with_rates
from lm_jax.training.optimizers import TRAINED, Mask, make_optimizer, update_only
from lm_jax.training.schedules import learning_rate_schedule
from lm_jax.training.skipping import remembering
from lm_jax.training.train_step import TrainStep, make_train_step

_LARGEST_COPY = 8e9  # bytes
_ONE_SOURCE: Mapping[str, int] = {}


class BuiltExperiment(NamedTuple):
    """An experiment turned into functions, for one mesh and one data set."""

    experiment: Experiment  # filled in with the sizes that the data decides, and with its mesh
    objective: Objective
    mesh: Mesh
    model: Model
    optimizer: optax.GradientTransformation
    train_step: TrainStep
    example: dict[str, jax.ShapeDtypeStruct]  # the shapes of a batch
    declarations: Declarations  # what each parameter is, by its path
    fan_in_out: Any = None  # of the parameters, in muP: see `lm_jax.training.mup`

    @property
    def is_trained(self) -> Mask | None:
        """(parameters) -> which of them are trained; None: all."""
        return TRAINED[self.experiment.fine_tuning.parameters](self.declarations)

    @property
    def loss(self) -> LossFunction:
        """(variables, batch, *, train, key) -> Losses, new statistics: the objective's loss."""
        return loss_function(self.objective, self.model)

    @property
    def gradients(self) -> Gradients:
        """The gradients of what is trained, those of `train_step`."""
        return _gradients(self.experiment, self.loss)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of a whole run; a count-based model takes one."""
        return 1 if self.model.is_count_based else self.experiment.training.num_steps


def build_experiment(
    experiment: Experiment,
    sizes: Mapping[str, int],
    devices: Sequence[jax.Device] | None = None,
    device_bytes: float | None = None,
) -> BuiltExperiment:
    """Returns the functions of an experiment on these devices (None: all); allocates nothing.

    Args:
      sizes: what the data set decides (`vocab_size`, `num_classes`, ...): the model's fields of
        these names take them where they are 0.
      device_bytes: memory of a device, which decides what mesh `auto` is; None: ask the devices.

    Raises:
      UserError: the experiment cannot run with this data set; MeshError: on these devices.
    """
    validate(experiment)
    objective = objective_of(experiment)
    if special := objective.special_ids(experiment):
        sizes = dict(sizes) | {"vocab_size": sizes["vocab_size"] + special}
    experiment = dataclasses.replace(experiment, model=fill_in(experiment.model, sizes))
    devices = jax.devices() if devices is None else devices
    with made_for(devices[0]):
        model, fan_in_out = _make_model(experiment, objective)
    declared = declarations(model.init, objective.example(experiment, 1))
    schedule = learning_rate_schedule(experiment.schedule, experiment.training.num_steps)
    optimizer, train_step = make_training(
        experiment, model, schedule, declared, fan_in_out=fan_in_out
    )
    _check_smoothing(experiment, objective, model)
    if experiment.mesh == AUTO:
        is_trained = TRAINED[experiment.fine_tuning.parameters](declared)
        state_bytes = functools.partial(
            state.state_bytes, model, optimizer, objective.example(experiment, 1), is_trained
        )
        decides = len(devices) > 1 and not model.is_count_based
        sizes_of_axes = _automatic_mesh(devices, device_bytes, state_bytes if decides else None)
        experiment = dataclasses.replace(experiment, mesh=sizes_of_axes)
    mesh = _make_mesh(experiment, devices)
    # A state that is carried from batch to batch has as many rows as a batch.
    carries_state = family_of(experiment.model).carries_state(experiment.model)
    rows = sequences_per_step(experiment) if carries_state else sharding.data_parts(mesh)
    example = objective.example(experiment, rows)
    return BuiltExperiment(
        experiment,
        objective,
        mesh,
        model,
        optimizer,
        train_step,
        example,
        declared,
        fan_in_out,
    )


def _check_smoothing(experiment: Experiment, objective: Objective, model: Model) -> None:
    smoothing = experiment.training.label_smoothing
    if smoothing and (model.is_count_based or not objective.smooths_labels):
        raise UserError(
            f"training.label_smoothing is {smoothing}, but what this model is trained on is no "
            "softmax over all targets; set it to 0"
        )


def _automatic_mesh(
    devices: Sequence[jax.Device],
    device_bytes: float | None,
    state_bytes: Callable[[], int] | None,
) -> str:
    """Returns the mesh that `auto` stands for; without `state_bytes`, memory does not decide."""
    device_bytes = device_bytes or sharding.device_memory()
    needed = state_bytes() if state_bytes and device_bytes else 0
    return automatic(len(devices), needed, device_bytes)


def _make_mesh(experiment: Experiment, devices: Sequence[jax.Device]) -> Mesh:
    """Returns the mesh; raises MeshError if devices, batches or the model do not divide over it."""
    parts = experiment.training.gradient_accumulation_steps
    try:
        mesh = sharding.make_mesh(experiment.mesh, devices)
        sharding.check_divides(mesh, sequences_per_step(experiment) // parts, "a training batch")
        sharding.check_divides(mesh, experiment.evaluation.batch_size, "an evaluation batch")
        family_of(experiment.model).check_mesh(experiment.model, mesh.shape)
    except UserError as error:
        raise MeshError(str(error)) from error
    return mesh


def _make_model(experiment: Experiment, objective: Objective) -> tuple[Model, Any]:
    """Returns the model of an experiment, and in muP the fan-in and fan-out of its parameters."""
    config, dtype, width = experiment.model, compute_dtype(experiment), experiment.mup_base_width
    example, low_rank = objective.example(experiment, 1), low_rank_of(experiment)

    def make(config: Any) -> Model:
        model = build_model(config, dtype)
        return model if low_rank is None else with_updates(model, low_rank, example)

    if not width or of_width(config, width) == config:  # at the base width there is one program
        return make(config), None
    config, base_config = configurations(config, width)
    model, base = make(config), make(base_config)
    found = fan_in_out(model, base, example)
    return with_initial_sizes(model, base, found), found


def low_rank_of(experiment: Experiment) -> LowRank | None:
    """Returns the low-rank updates that an experiment trains; None: it trains its parameters."""
    tuning = experiment.fine_tuning
    if tuning.parameters != "lora":
        return None
    targets = tuple(part.strip() for part in tuning.lora_targets.split(","))
    return LowRank(tuning.lora_rank, tuning.lora_alpha, targets)


def make_training(
    experiment: Experiment,
    model: Model,
    schedule: optax.Schedule,
    declared: Declarations,
    weight_decay: jax.Array | float | None = None,
    fan_in_out: Any = None,
) -> tuple[optax.GradientTransformation, TrainStep]:
    """Returns the optimizer of an experiment and its train step.

    Args:
      declared: what each parameter of the model is.
      weight_decay: instead of the experiment's own; it may be traced.
      fan_in_out: of the parameters, in muP.
    """
    config = experiment.optimizer
    if weight_decay is not None:
        config = dataclasses.replace(config, weight_decay=weight_decay)  # type: ignore[arg-type]
    is_trained = TRAINED[experiment.fine_tuning.parameters](declared)
    optimizer = make_optimizer(config, schedule, declared)
    if is_trained is not None:
        optimizer = update_only(optimizer, is_trained)
    if fan_in_out is not None:
        optimizer = with_rates(optimizer, config.name, fan_in_out)
    if config.skip_above:
        optimizer = remembering(optimizer)
    if config.loss_scaling and compute_dtype(experiment) == jnp.float16:
        optimizer = scaling(optimizer)
    gradients = _gradients(experiment, loss_function(objective_of(experiment), model))
    step = make_train_step(gradients, optimizer, schedule, is_trained, config.skip_above)
    return optimizer, step


def _gradients(experiment: Experiment, loss: LossFunction) -> Gradients:
    training = experiment.training
    return make_gradients(
        loss,
        training.gradient_accumulation_steps,
        label_smoothing=training.label_smoothing,
        fixed_features=experiment.fine_tuning.parameters == "head",
        z_loss=training.z_loss,
    )


def compute_dtype(experiment: Experiment) -> jnp.dtype:
    """Returns the dtype in which models compute."""
    name = experiment.compute_dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def expected_sizes(experiment: Experiment) -> dict[str, int]:
    """Returns the sizes that the data decides, without reading a text or training a tokenizer.

    For text, `vocab_size` is the tokenizer's maximum vocabulary size.
    """
    return data.expected_sizes(experiment.data)


def fill_in(model: Any, sizes: Mapping[str, int]) -> Any:
    """Returns a model's configuration whose fields that are 0 take what the data set decides.

    Raises:
      UserError: a field is neither 0 nor what the data set needs.
    """
    filled = {}
    fields = {field.name for field in dataclasses.fields(model)}
    for name in (name for name in sizes if name in fields):
        given, size = getattr(model, name), sizes[name]
        if given == 0:
            filled[name] = size
        elif name == "vocab_size" and given < size:
            raise UserError(
                f"model.vocab_size {given} is smaller than the tokenizer's {size} (with the ids "
                "of masks, if the objective has any); leave it 0 to take that"
            )
        elif name != "vocab_size" and given != size:
            raise UserError(
                f"model.{name} is {given}, but the data set's is {size}; leave it 0 to take that"
            )
    return dataclasses.replace(model, **filled)


def on_one_device(
    built: BuiltExperiment, variables: Variables
) -> tuple[BuiltExperiment, Variables] | None:
    """Returns a built experiment and its variables that this process can run by itself.

    With one process they are returned unchanged. Returns None if the variables are too large to be
    copied to every host. A collective: every process must call it.
    """
    if jax.process_count() == 1:
        return built, variables
    if sum(leaf.nbytes for leaf in jax.tree.leaves(variables)) > _LARGEST_COPY:
        return None
    mesh = sharding.make_mesh("data:1", jax.local_devices()[:1])
    copies = multihost_utils.process_allgather(variables, tiled=True)
    return built._replace(mesh=mesh), copies


def training_batches(built: BuiltExperiment, dataset: data.Dataset) -> Batches:
    """Returns this process's rows of the training batches."""
    return built.objective.training_batches(built.experiment, dataset)


def measure(
    built: BuiltExperiment,
    losses: MeasuredFunction,
    variables: Variables,
    split: Any,
    tokenizer: data.Tokenizer | None,
    eval_config: EvaluationConfig,
    sources: Mapping[str, int] = _ONE_SOURCE,
) -> dict[str, Any]:
    """Returns the measures of a split of the data set, by name: see `measures_of`."""
    sums = sum_documents(built, losses, variables, split, eval_config)
    return measures_of(built, sums, split, tokenizer, sources)


def measures_of(
    built: BuiltExperiment,
    sums: DocumentSums,
    split: Any,
    tokenizer: data.Tokenizer | None,
    sources: Mapping[str, int] = _ONE_SOURCE,
) -> dict[str, Any]:
    """Returns the measures of the sums of a split, by name; of a mixture also by source.

    Args:
      sources: how many documents of the split each source of a mixture has, one source after the
        other; {}: it is no mixture. `sources` of the result holds the measures of each.
    """
    found = built.objective.measures(sums, split, tokenizer)
    by_source = {}
    for name, numbers in ranges(sources).items():
        part = sums.of_documents(numbers)
        if part.tokens.sum():  # a mask may hide nothing of a short text
            documents = consecutive(split, numbers)
            by_source[name] = built.objective.measures(part, documents, tokenizer)
    return found | ({"sources": by_source} if by_source else {})


def sum_documents(
    built: BuiltExperiment,
    losses: MeasuredFunction,
    variables: Variables,
    split: Any,
    eval_config: EvaluationConfig,
) -> DocumentSums:
    """Returns the sums of each document of a split, which its measures are made from."""
    evaluation_batches = built.objective.evaluation_batches
    batches, documents = evaluation_batches(built.experiment, split, eval_config)
    with sharding.on_mesh(built.mesh):
        return sum_by_document(losses, variables, batches, documents, built.mesh)
