"""The state that a run begins with: of a checkpoint, of another run, counted, or fresh."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from lm_jax import data
from lm_jax.build import BuiltExperiment, low_rank_of
from lm_jax.config.experiment import Experiment, FineTuningConfig
from lm_jax.errors import UserError
from lm_jax.models.low_rank import merged
from lm_jax.models.parameters import path_of
from lm_jax.parallel import sharding
from lm_jax.plurals import counted
from lm_jax.runs import workdir
from lm_jax.runs.restore import restore
from lm_jax.training.checkpoints import Checkpoints
from lm_jax.training.state import (
    Inheritance,
    TrainState,
    counted_state,
    inherit,
    init_state,
)

_LISTED = 12  # arrays of each kind in the log; inherited.json has all


def fine_tuned(given: Experiment | None, source: Path) -> Experiment:
    """Returns an experiment with the architecture, the tokenizer and the parameters of a run.

    Args:
      given: all else; None: the run's own configuration.

    Raises:
      UserError: `source` is no run.
    """
    theirs = workdir.read_experiment(source)
    ours = theirs if given is None else given
    tuning = FineTuningConfig() if given is None else ours.fine_tuning
    tuning = dataclasses.replace(tuning, workdir=str(source))
    config = ours.data
    if config.has_text and theirs.data.has_text:
        tokenizer = dataclasses.replace(config.tokenizer, path=str(source))
        config = dataclasses.replace(config, tokenizer=tokenizer)
    return dataclasses.replace(
        ours,
        model=theirs.model,
        mup_base_width=theirs.mup_base_width,
        data=config,
        fine_tuning=tuning,
    )


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
        _, state = checkpoints.restore(None, "last", lambda _: None, ("params", "stats"))
    low_rank, params = low_rank_of(theirs), state["params"]
    params = params if low_rank is None else merged(params, low_rank.scale)
    return {"params": params, **state["stats"]}


def first_state(
    built: BuiltExperiment,
    checkpoints: Checkpoints,
    dataset: data.Dataset,
    inherited: dict[str, Any] | None = None,
) -> tuple[TrainState, list[str], Inheritance | None]:
    """Returns the state that a run starts or resumes from, remarks for the log, what it inherits.

    Args:
      inherited: variables of another run, which a fresh state takes over where shapes agree.

    Raises:
      UserError: no checkpoint can be read, or the other run has no array of a shape of this one.
    """
    notes: list[str] = []
    if checkpoints.steps():
        step, state = restore(built, checkpoints, "last", notes.append)
        return state, [*notes, f"resuming from the checkpoint of step {step}"], None
    if fit := built.model.fit:
        state = counted_state(fit(dataset.train), built.experiment.seed)
        return sharding.replicated(state, built.mesh), notes, None
    state, found = fresh_state(built, inherited)
    if found is None:
        return state, notes, None
    return state, describe(found, built.experiment.fine_tuning.workdir), found


def fresh_state(
    built: BuiltExperiment, inherited: dict[str, Any] | None
) -> tuple[TrainState, Inheritance | None]:
    """Returns the state before the first step, and what it takes over of another run.

    Args:
      inherited: `inherited_variables`.

    Raises:
      UserError: the other run has no array of a shape of this one.
    """
    state = init_state(
        built.model, built.optimizer, built.example, built.mesh, built.experiment.seed
    )
    if inherited is None:
        return state, None
    state, found = inherit(state, inherited, built.declarations)
    tuned_from = built.experiment.fine_tuning.workdir
    if not found.taken:
        kinds: dict[str, Mapping[str, Any]] = {
            "other shapes": _shapes(found),
            "only here": found.new,
            "only there": found.unused,
        }
        differs = "".join(f"; {k}: {_listed(arrays, 3)}" for k, arrays in kinds.items() if arrays)
        raise UserError(
            f"fine_tuning.workdir {tuned_from} has no array of this model's names and shapes"
            f"{differs}; take over its architecture, and leave out flags that change it: "
            f"--from_workdir={tuned_from} --fine_tune"
        )
    if built.model.merge is not None:
        _refuse_fresh_frozen(built, state, found)
    return state, found


def _refuse_fresh_frozen(built: BuiltExperiment, state: TrainState, found: Inheritance) -> None:
    """Raises UserError if parameters beside low-rank updates would stay as they were drawn."""
    masks = built.is_trained(state.params) if built.is_trained else {}
    for path, is_trained in jax.tree_util.tree_leaves_with_path({"params": masks}):
        name = path_of(path)
        if name not in found.taken and not is_trained:
            raise UserError(
                f"fine_tuning.parameters=lora does not train {name.removeprefix('params/')}, and "
                f"{built.experiment.fine_tuning.workdir} has none of its shape: train all with "
                "fine_tuning.parameters=all, or take over that run's architecture: --fine_tune"
            )


def describe(found: Inheritance, tuned_from: str) -> list[str]:
    """Returns what a run takes over from another one, a line for each kind of array."""
    lines: dict[str, Mapping[str, Any]] = {
        f"taken from {tuned_from}": found.taken,
        "new": found.new,
        f"of another shape than in {tuned_from}, and therefore new": _shapes(found),
        f"of {tuned_from} that this model does not have": found.unused,
    }
    return [
        f"{_arrays(arrays)} {what}: {_listed(arrays)}" for what, arrays in lines.items() if arrays
    ]


def _shapes(found: Inheritance) -> dict[str, str]:
    """Returns both shapes of the arrays that have another one in the other run."""
    return {
        name: f"{here} here, {there} there" for name, (there, here) in found.other_shape.items()
    }


def _arrays(arrays: Mapping[str, Any]) -> str:
    return counted(len(arrays), "array")


def _listed(arrays: Mapping[str, Any], most: int = _LISTED) -> str:
    shown = [f"{name.removeprefix('params/')} {shape}" for name, shape in arrays.items()]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
