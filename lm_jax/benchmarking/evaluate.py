"""Exact evaluation of a text, timed against PyTorch's forward pass over the same windows."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lm_jax import data
from lm_jax.benchmarking.interleaved_timing import time_interleaved
from lm_jax.build import BuiltExperiment, compute_dtype
from lm_jax.data.text.windows import evaluation_batches
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import make_loss_function, sum_by_document
from lm_jax.parallel import sharding
from lm_jax.training.state import init_state, variables_of


def random_documents(tokens: int, vocab_size: int, length: int = 0) -> data.TokenizedDocuments:
    """Returns a stream of random tokens in documents of `length` targets; 0: one document."""
    count = max(tokens // length, 1) if length else 1
    rng = np.random.default_rng(0)
    stream = rng.integers(1, max(vocab_size, 2), tokens + 1).astype(np.int32)
    starts = np.linspace(0, tokens, count + 1).astype(np.int64)
    stream[starts] = 0
    sizes = np.diff(starts)
    return data.TokenizedDocuments(stream, starts, sizes, sizes, sizes)


def measure(
    built: BuiltExperiment, num_batches: int, rounds: int, baselines: Mapping[str, Any]
) -> dict[str, Any]:
    """Times evaluating one document of `num_batches` batches, interleaved with the baselines.

    Ours ends in float64 sums per document on the host, a baseline in one mean.

    Args:
      baselines: by name, functions of the batches [K, B, T] that return the work to time.

    Raises:
      UserError: the objective does not predict the next token of running text.
    """
    experiment = built.experiment
    if not built.objective.in_windows:
        raise UserError(
            "the suite eval measures objectives that predict the next token of running text, "
            f"not {experiment.objective}"
        )
    model, rows = experiment.model, experiment.evaluation.batch_size
    targets = rows * model.context_length
    documents = random_documents(num_batches * targets, model.vocab_size)
    batches = evaluation_batches(documents, context_length=model.context_length, batch_size=rows)
    state = init_state(built.model, built.optimizer, built.example, built.mesh, experiment.seed)
    variables = variables_of(state)
    losses = make_loss_function(built.loss)

    def work() -> None:
        with sharding.on_mesh(built.mesh):
            sums = sum_by_document(losses, variables, batches, 1, built.mesh)
        assert sums.tokens.sum() == num_batches * targets

    names = ("inputs", "targets")
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in names}
    timed = {"lm_jax": work, **{name: make(stacked) for name, make in baselines.items()}}
    timings = time_interleaved(timed, rounds)
    return {
        "unit": "tokens",
        "targets_per_step": targets,
        "steps_per_round": num_batches,
        "rounds": rounds,
        "dtype": str(compute_dtype(experiment)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "programs": {
            name: timings.rate(name, num_batches * targets, num_batches) for name in timed
        },
        **timings.ratios("lm_jax", list(baselines)),
    }
