"""The state that a run begins with: of a checkpoint, of another run, counted, or fresh."""

import contextlib
from pathlib import Path
from typing import Any

from lm_jax import data
from lm_jax.build import BuiltExperiment
from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.parallel import sharding
from lm_jax.runs import workdir
from lm_jax.runs.trained_run import restore
from lm_jax.training.checkpoints import Checkpoints
from lm_jax.training.state import TrainState, counted_state, inherit, init_state


def inherited_variables(
    experiment: Experiment, tokenizer: data.Tokenizer | None
) -> dict[str, Any] | None:
    """Returns the variables of the run to fine-tune from, as nested dicts; None: start afresh.

    Raises:
      UserError: there is no such run, or its embeddings are of other tokens.
    """
    tuned_from = experiment.fine_tuning.workdir
    if not tuned_from:
        return None
    theirs = workdir.read_experiment(Path(tuned_from))
    if theirs.mup_base_width != experiment.mup_base_width:
        raise UserError(
            f"fine_tuning.workdir {tuned_from} has mup_base_width {theirs.mup_base_width}, not "
            f"{experiment.mup_base_width}, which gives parameters another meaning; "
            "set it to that"
        )
    if tokenizer and tokenizer.model != data.load_tokenizer(Path(tuned_from) / "tokenizer").model:
        raise UserError(
            f"fine_tuning.workdir {tuned_from} has another tokenizer than data.tokenizer gives "
            "here: its embeddings would stand for other tokens; set data.tokenizer.path to it"
        )
    with contextlib.closing(
        Checkpoints(Path(tuned_from) / "checkpoints", theirs.checkpoint, read_only=True)
    ) as checkpoints:
        _, state = checkpoints.restore(None, "last", lambda _: None)
    return {"params": state["params"], **state["stats"]}


def first_state(
    built: BuiltExperiment,
    checkpoints: Checkpoints,
    dataset: data.Dataset,
    inherited: dict[str, Any] | None = None,
) -> tuple[TrainState, list[str]]:
    """Returns the state that a run starts or resumes from, and remarks for the log.

    Args:
      inherited: variables of another run, which a fresh state takes over where shapes agree.

    Raises:
      UserError: no checkpoint can be read, or the other run has no array of a shape of this one.
    """
    notes: list[str] = []
    if checkpoints.steps():
        step, state = restore(built, checkpoints, "last", notes.append)
        return state, [*notes, f"resuming from the checkpoint of step {step}"]
    if fit := built.model.fit:
        state = counted_state(fit(dataset.train), built.experiment.seed)
        return sharding.replicated(state, built.mesh), notes
    state = init_state(
        built.model, built.optimizer, built.example, built.mesh, built.experiment.seed
    )
    if inherited is None:
        return state, notes
    state, kept, fresh = inherit(state, inherited, built.declarations)
    tuned_from = built.experiment.fine_tuning.workdir
    if not kept:
        raise UserError(f"fine_tuning.workdir {tuned_from} has no array of this model's shapes")
    return state, [f"{kept} arrays of parameters taken from {tuned_from}, {fresh} made anew"]
