"""A trained run, read back from its work directory: to measure it, and to have it write."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax import data
from lm_jax.analysis.inspect import embedding_table
from lm_jax.build import Program, compile_experiment, measure
from lm_jax.config.experiment import EvaluationConfig, SamplesConfig
from lm_jax.config.validation import validate
from lm_jax.errors import UserError
from lm_jax.evaluation import loss_sums as evaluation
from lm_jax.evaluation.word_vectors import WordVectors, word_vectors
from lm_jax.generation import generate as completion
from lm_jax.generation.beam_tree import draw
from lm_jax.generation.token_labels import namer
from lm_jax.parallel import processes as hosts
from lm_jax.parallel import sharding
from lm_jax.parallel.mesh import AUTO
from lm_jax.runs import workdir
from lm_jax.training import loop as training
from lm_jax.training.checkpoints import Checkpoints

Dataset = data.Dataset


class Run(NamedTuple):
    """A trained model, read back from its work directory."""

    workdir: Path
    program: Program
    tokenizer: data.Tokenizer | None  # None: it reads no text
    step: int
    variables: Any


def load(directory: Path, checkpoint: str = "last", *, say: Callable[[str], None] = print) -> Run:
    """The run of a work directory at its `last` readable checkpoint, its `best`, or a step.

    Its mesh is the run's own where that fits the devices here, else one device, or on several hosts
    all as data parallel.

    Raises:
      UserError: the directory holds no run, no such checkpoint, or none that can be read.
    """
    experiment = workdir.read_experiment(directory)
    tokenizer = None
    if not isinstance(experiment.data, data.ImageConfig):
        tokenizer = data.load_tokenizer(directory / "tokenizer")
    sizes = workdir.read_sizes(directory)
    if getattr(experiment.model, "attention", None) == "cudnn":  # what is read need not be trained
        experiment.model.attention = "auto"
    try:
        program = compile_experiment(experiment, sizes)
    except ValueError:  # trained on other devices than are here: to read it, one will do
        experiment.mesh = AUTO
        devices = None if hosts.several() else jax.devices()[:1]  # of several hosts, each has some
        program = compile_experiment(experiment, sizes, devices)
    with contextlib.closing(
        Checkpoints(directory / "checkpoints", experiment.checkpoint, read_only=True)
    ) as checkpoints:
        step, state = restore(program, checkpoints, checkpoint, say)
    return Run(directory, program, tokenizer, step, training.variables_of(state))


def abstract_state(program: Program) -> training.TrainState | None:
    """The shapes of the run's checkpoints; None: a model that counts takes them from the data."""
    if program.model.fit is not None:
        return None
    return training.abstract_state(program.model, program.optimizer, program.example, program.mesh)


def restore(
    program: Program, checkpoints: Checkpoints, which: str, say: Callable[[str], None]
) -> tuple[int, training.TrainState]:
    """The step and the state of a checkpoint, on the program's mesh.

    Raises:
      UserError: there is no such checkpoint, or none that can be read.
    """
    step, state = checkpoints.restore(abstract_state(program), which, say)
    if isinstance(state, dict):
        state = sharding.replicated(training.TrainState(**state), program.mesh)
    return step, state


def dataset_of(run: Run) -> Dataset:
    """The data that the run was trained on, prepared again.

    Raises:
      UserError: it cannot be had, or changed since.
    """
    config = run.program.experiment.data
    if getattr(config, "tokenizer", None) and config.tokenizer.path:
        tokenizer = dataclasses.replace(config.tokenizer, path=str(run.workdir))  # its own copy
        config = dataclasses.replace(config, tokenizer=tokenizer)
    dataset = hosts.first_then_others(lambda: data.prepare(config))
    workdir.refuse_other_data(dataset, run.workdir)
    return dataset


def evaluate(run: Run, *, split: str, how: EvaluationConfig) -> dict[str, Any]:
    """The measures of the run's own `train` or `validation` split.

    Raises:
      UserError: the text cannot be cut so, or the data is no longer that which the run was
        trained on.
    """
    dataset = _dataset_to_evaluate(run, how)
    losses = evaluation.make_loss_function(run.program.model)
    examples = getattr(dataset, split)
    return measure(run.program, losses, run.variables, examples, dataset.tokenizer, how)


def evaluate_by_position(run: Run, *, split: str, how: EvaluationConfig) -> evaluation.PositionSums:
    """The sums of each place in a window, of a model that predicts the next token.

    Raises:
      UserError: as `evaluate`, or the run predicts something else.
    """
    experiment = run.program.experiment
    if experiment.objective != "causal_lm":
        raise UserError(
            f"{run.workdir} is trained for {experiment.objective}; the loss by position is of "
            "models that predict the next token (causal_lm)"
        )
    documents = getattr(_dataset_to_evaluate(run, how), split)
    losses = evaluation.make_loss_function(run.program.model)
    length = how.context_length or experiment.model.context_length
    batches, _ = run.program.objective.evaluation_batches(experiment, documents, how)
    with sharding.on_mesh(run.program.mesh):
        return evaluation.sum_by_position(losses, run.variables, batches, length, run.program.mesh)


def _dataset_to_evaluate(run: Run, how: EvaluationConfig) -> Dataset:
    validate(dataclasses.replace(run.program.experiment, evaluation=how))
    sharding.check_divides(run.program.mesh, how.batch_size, "an evaluation batch")
    return dataset_of(run)


def complete(
    run: Run,
    prompts: Sequence[str],
    config: SamplesConfig,
    *,
    seed: int = 0,
    stop: Sequence[str] = (),
    truncate: bool = False,
) -> list[completion.Completion]:
    """Texts of each prompt: `num_samples` samples, or with several beams the `num_best` best.

    A sampled text that outgrows the model's context goes on from its last half context.

    Args:
      stop: strings that end a sampled text; they are left out, and so is all that follows.
      truncate: cut prompts that are too long, instead of refusing them.

    Raises:
      UserError: the model does not generate, or a prompt does not fit its context.
    """
    tokenizer = validate_samples(run, config)
    parts = (run.program, run.variables, tokenizer, prompts, config)
    if config.num_beams == 1:
        return completion.complete(*parts, seed=seed, stop=stop, truncate=truncate)
    if stop:
        raise UserError("stop strings end samples; beams end by the model's own end: leave one out")
    found, _ = completion.search(*parts, truncate=truncate)
    return [text for texts in found for text in texts]


def search_tree(run: Run, prompt: str, config: SamplesConfig) -> list[str]:
    """The beams of one prompt as lines of text.

    Raises:
      UserError: as `complete`.
    """
    tokenizer = validate_samples(run, config)
    _, (tree,) = completion.search(run.program, run.variables, tokenizer, [prompt], config)
    return list(draw(tree, namer(tokenizer, run.program.experiment)))


def next_tokens(run: Run, prompt: str) -> list[completion.NextToken]:
    """What the model expects at the beginning of a text and after each token of a prompt.

    Raises:
      UserError: the model does not generate, or the prompt does not fit its context.
    """
    tokenizer = validate_samples(run, SamplesConfig())
    return completion.next_tokens(run.program, run.variables, tokenizer, prompt)


def validate_samples(run: Run, config: SamplesConfig) -> data.Tokenizer:
    """The tokenizer of a run that can give such samples.

    Raises:
      UserError: it cannot.
    """
    validate(dataclasses.replace(run.program.experiment, samples=config))
    if run.tokenizer is None or run.program.model.step is None:
        raise UserError(f"the model of {run.workdir} does not generate text")
    return run.tokenizer


def vectors_of_words(run: Run) -> WordVectors:
    """The embeddings of a run's vocabulary of words.

    Raises:
      UserError: its model has no embeddings, or its vocabulary is not one of words.
    """
    table = embedding_table(run.variables)
    if table is None or run.tokenizer is None or run.tokenizer.lossless:
        raise UserError(f"{run.workdir} holds no vectors of words; train configs/word2vec.py")
    first = run.tokenizer.end_of_document + 1  # the end of a document is no word
    indices = range(first, run.tokenizer.vocab_size)
    words = [run.tokenizer.decode(np.array([index])) for index in indices]
    return word_vectors(words, table[first : run.tokenizer.vocab_size])
