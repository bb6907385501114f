"""An experiment as functions: the model, the optimizer, the step, the batches, the measures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lm_jax import data, evaluation, sharding, training
from lm_jax import experiment as experiments
from lm_jax.experiment import Experiment
from lm_jax.models import Model, build_model
from lm_jax.optimizers import learning_rate_schedule, make_optimizer


class Program(NamedTuple):
    """An experiment turned into functions, for one mesh and one vocabulary."""

    experiment: Experiment  # with the size of its vocabulary filled in
    mesh: Mesh
    model: Model
    optimizer: optax.GradientTransformation
    train_step: training.TrainStep
    example: dict[str, jax.ShapeDtypeStruct]  # a batch that shows shapes


def compile_experiment(
    experiment: Experiment, vocab_size: int, devices: Sequence[jax.Device] | None = None
) -> Program:
    """The functions of an experiment on these devices (None: all); nothing is allocated yet.

    Raises:
      ValueError: a configuration that cannot run on these devices or with this vocabulary.
    """
    experiments.validate(experiment)
    experiment = experiments.from_dict(experiments.to_dict(experiment))  # a copy of our own
    if experiment.model.vocab_size == 0:
        experiment.model.vocab_size = vocab_size
    elif experiment.model.vocab_size < vocab_size:
        raise ValueError(
            f"model.vocab_size {experiment.model.vocab_size} is smaller than the tokenizer's "
            f"{vocab_size}; leave it 0 to take the tokenizer's"
        )
    mesh = sharding.make_mesh(experiment.mesh, devices)
    parts = experiment.training.gradient_accumulation_steps
    sequences = experiments.sequences_per_step(experiment)
    sharding.check_divides(mesh, sequences // parts, "a training batch")
    sharding.check_divides(mesh, experiment.evaluation.batch_size, "an evaluation batch")
    dtype = experiment.compute_dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = build_model(experiment.model, jnp.dtype(dtype))
    schedule = learning_rate_schedule(experiment.schedule, experiment.training.num_steps)
    optimizer = make_optimizer(experiment.optimizer, schedule)
    train_step = training.make_train_step(model, optimizer, schedule, parts)
    shape = (sharding.data_parts(mesh), experiment.model.context_length)
    example = {"inputs": jax.ShapeDtypeStruct(shape, jnp.int32)}
    return Program(experiment, mesh, model, optimizer, train_step, example)


def training_batches(program: Program, corpus: data.Corpus) -> training.Batches:
    """The batches of a run: this process's rows of each."""
    return data.training_batches(
        corpus.train,
        context_length=program.experiment.model.context_length,
        batch_size=experiments.sequences_per_step(program.experiment),
        seed=program.experiment.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def measure(
    program: Program,
    losses: evaluation.LossFunction,
    variables: Any,
    documents: data.TokenizedDocuments,
    *,
    batch_size: int,
    stride: int = 0,
) -> dict[str, Any]:
    """The measures of a split: see `evaluation.measures`; `stride` 0 means disjoint windows."""
    batches = data.evaluation_batches(
        documents,
        context_length=program.experiment.model.context_length,
        batch_size=batch_size,
        stride=stride or None,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with sharding.on_mesh(program.mesh):
        sums = evaluation.sum_by_document(
            losses, variables, batches, len(documents.characters), program.mesh
        )
    return evaluation.measures(sums, documents.characters, documents.bytes, documents.words)
