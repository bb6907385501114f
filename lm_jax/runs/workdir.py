"""A work directory: the inputs of a run, its results, and whether a run may continue in it."""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax import data, trusted_code
from lm_jax.build import fill_in
from lm_jax.config.experiment import EvaluationConfig, Experiment
from lm_jax.config.serialization import from_dict, to_dict
from lm_jax.errors import UserError, names_path
from lm_jax.evaluation.loss_sums import DocumentSums, PositionSums
from lm_jax.json_values import read_as, read_object
from lm_jax.models import build_model
from lm_jax.telemetry.environment import environment, versions
from lm_jax.telemetry.json_files import finite, json_text, write_json
from lm_jax.telemetry.run_digests import damaged_file, refuse_damaged, write_noted
from lm_jax.telemetry.run_files import (
    ByPosition,
    DataFacts,
    Environment,
    Results,
    read_data_facts,
)
from lm_jax.trusted_code import UntrustedCode

_OF_RUNS = ("config.json", "branch.json")  # a fork that was not begun has the second only
# What a run writes once it has config.json.
_LATER = ("metrics.jsonl", "evaluation.json", "inspection.json", "samples.txt", "report.html")
# What a finished run writes anew where it is damaged.
_CHECKED = (
    "evaluation.json",
    "inspection.json",
    "samples.txt",
    "by_document_validation.json",
    "data.json",
)
IMPORTED = "imported"  # the folder of a work directory with what else came with the weights


def begun_from(workdir: Path) -> Iterator[Path]:
    """Yields a run, the one that its parameters are from, and so on; the last may be gone."""
    seen: set[Path] = set()
    while workdir.resolve() not in seen:  # it is, where directories were renamed
        seen.add(workdir.resolve())
        yield workdir
        try:
            tuning = read_object(workdir / "config.json").get("fine_tuning")
        except (UserError, OSError):
            return
        earlier = tuning.get("workdir") if isinstance(tuning, dict) else None
        if not earlier or not isinstance(earlier, str):
            return
        workdir = Path(earlier)


def imported_folder(workdir: Path) -> Path | None:
    """Returns the folder of what came with the weights that a run began with, or None."""
    folders = (run / IMPORTED for run in begun_from(workdir))
    return next((folder for folder in folders if folder.is_dir()), None)


def trust_code(workdir: Path) -> None:
    """Trusts the code that the files of a run name, from now on."""
    for path in (workdir / "config.json", workdir / "tokenizer" / "tokenizer.json"):
        with contextlib.suppress(OSError, UserError):  # whoever needs it says so
            read_object(path)
            trusted_code.trust_named_in(path)


def read_experiment(workdir: str | Path) -> Experiment:
    """Returns the experiment of a run.

    Raises:
      UserError: the directory holds none, or one whose code the user does not trust.
    """
    path = Path(workdir) / "config.json"
    try:
        values = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{workdir} is no work directory: it holds no config.json") from None
    try:
        return from_dict(values)
    except UntrustedCode:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_sizes(workdir: str | Path) -> dict[str, int]:
    """Returns the sizes that the run's data set decided (`vocab_size`, ...)."""
    found = read_data_facts(Path(workdir))
    if "sizes" not in found:
        raise UserError(f"{Path(workdir) / 'data.json'} holds no sizes of the data; restore it")
    return found["sizes"]


def read_description(workdir: str | Path) -> DataFacts:
    """Returns what the run's data set says of itself, such as the sizes of its splits."""
    return read_data_facts(Path(workdir))


def read_labels(workdir: str | Path) -> list[str]:
    """Returns the names of the classes in the order of their ids; [] where there are none."""
    return read_description(workdir).get("labels", [])


def results_of(experiment: Experiment, workdir: Path) -> dict[str, Any] | None:
    """Returns the results of a finished run of exactly this experiment; None if there is none.

    There is none either if a file is damaged that a run writes anew when it goes on at its end.
    """
    if damaged_file(workdir, _CHECKED):
        return None
    try:
        results = read_as(workdir / "evaluation.json", Results)
        trained = to_dict(read_experiment(workdir))
    except (OSError, UserError):
        return None
    is_same = trained | {"mesh": experiment.mesh} == to_dict(experiment)
    # A run that grew holds its earlier results until it has ended.
    steps = experiment.training.num_steps
    step = results.get("step", steps)
    has_ended = step == steps or bool(results.get("ended_early"))
    has_ended = has_ended or (step == 1 and _is_count_based(experiment, workdir))
    return dict(results) if is_same and has_ended and _is_whole(results) else None


def _is_count_based(experiment: Experiment, workdir: Path) -> bool:
    """Returns whether a run takes one step, whatever its configuration says."""
    model = fill_in(experiment.model, read_sizes(workdir))
    return build_model(model, np.float32).is_count_based


def _is_whole(results: Results) -> bool:
    """Returns whether results are as a run writes them; if edited, they are measured again."""
    has_loss = "cross_entropy" in results.get("validation", {})
    return has_loss and results.get("timings", {}).get("total_seconds") is not None


def refuse_other_data(
    dataset: data.Dataset, workdir: Path, advice: str = "restore it, or choose another --workdir"
) -> None:
    """Raises UserError if the directory was begun with other data or another tokenizer.

    Args:
      advice: what to do where the data is another.
    """
    path = workdir / "data.json"
    if not path.exists():
        return
    before, now = read_data_facts(workdir), dataset.description
    if "sha256" not in before or "fingerprint" not in before:
        raise UserError(f"{path} holds no fingerprint of the data; restore it")
    if before["fingerprint"] != now["fingerprint"]:
        if before["sha256"] == now["sha256"]:
            raise UserError(
                f"the text of {workdir} is the same, but it is cut or cleaned otherwise: the "
                "tokenizer that data.tokenizer.path names changed, or what data.* names; restore "
                "it, or choose another --workdir"
            )
        raise UserError(
            f"the data changed since {workdir} was begun (SHA-256 {before['sha256'][:12]}, now "
            f"{now['sha256'][:12]}): its model and checkpoints do not match it; {advice}"
        )
    tokenizer = dataset.tokenizer
    if tokenizer and tokenizer.model != data.load_tokenizer(workdir / "tokenizer").model:
        raise UserError(
            f"the text of {workdir} was cut by another tokenizer than its own, which another "
            "release of sentencepiece trained; install that one and clear the cache, or choose "
            "another --workdir"
        )


def refuse_foreign_files(workdir: Path) -> None:
    """Raises UserError if a directory without a run has files that a run would overwrite."""
    if any((workdir / name).exists() for name in _OF_RUNS):
        return
    found = [name for name in _LATER if (workdir / name).exists()]
    data_file = workdir / "data.json"  # of a run that was killed while it began, or of another kind
    if data_file.exists() and "fingerprint" not in _object_or_nothing(data_file):
        found.append("data.json")
    if found:
        raise UserError(
            f"{workdir} holds no run but has {found[0]}, which a run would overwrite; choose "
            "another --workdir, or move the file"
        )


def _object_or_nothing(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, UserError):
        return {}


def plan(experiment: Experiment, workdir: Path) -> dict[str, Any]:
    """Returns what all processes of a run must agree on before anything else."""
    config = to_dict(experiment)
    config["data"].pop("cache_directory", None)  # may be a host's own disk
    return {"config": config, "--workdir": str(workdir.absolute()), "version": versions()}


def identity(dataset: data.Dataset) -> dict[str, Any]:
    """Returns what identifies the data that a process reads."""
    model = dataset.tokenizer.model if dataset.tokenizer is not None else b""
    return {
        "the data's fingerprint": dataset.description["fingerprint"],
        "the SHA-256 of the tokenizer": hashlib.sha256(model).hexdigest(),
    }


def write_inputs(workdir: Path, experiment: Experiment, dataset: data.Dataset) -> None:
    """Writes the inputs of a run; a directory that has config.json has all of them."""
    workdir.mkdir(parents=True, exist_ok=True)
    with names_path(workdir):
        if dataset.tokenizer is not None:
            dataset.tokenizer.save(workdir / "tokenizer")
        write_noted(workdir, "data.json", json_text(dataset.description))
        data.save_held_out(experiment.data, dataset, workdir)
    write_json(workdir / "environment.json", environment())
    write_json(workdir / "config.json", to_dict(experiment))


def read_environment(workdir: str | Path) -> Environment:
    """Returns the machine and versions that last started a run; {} if they cannot be read."""
    try:
        return read_as(Path(workdir) / "environment.json", Environment)
    except (OSError, UserError):
        return {}


def write_by_document(
    workdir: Path,
    split: str,
    sums: DocumentSums,
    step: int,
    characters: np.ndarray | None,
    numbers: np.ndarray | None = None,
) -> Path:
    """Writes `by_document_SPLIT.json`, the sums of each document, and returns its path.

    Args:
      characters: of each document; None where bits per character are not measured.
      numbers: of the documents in the split; None: all of them.

    Raises:
      OSError: it cannot be written.
    """
    name = f"by_document_{split}.json"
    record = {
        "step": step,
        "nats": sums.nats.tolist(),
        "correct": sums.correct.astype(int).tolist(),
        "targets": sums.tokens.astype(int).tolist(),
        "characters": None if characters is None else characters.tolist(),
        "documents": None if numbers is None else numbers.tolist(),
    }
    # On one line: there may be many documents.
    write_noted(workdir, name, json.dumps(finite(record), allow_nan=False) + "\n")
    return workdir / name


def add_test_figures(
    workdir: Path, figures: Mapping[str, Any], step: int, eval_config: EvaluationConfig
) -> dict[str, Any]:
    """Adds `test` to the results of a run; returns the validation figures to compare it with.

    They are those of the same step and the same windows; {} where there are none. A run that has
    not ended has no results, and nothing is written.

    Raises:
      OSError: they cannot be written.
    """
    path = workdir / "evaluation.json"
    if not path.exists():
        return {}
    refuse_damaged(workdir, path.name)
    results, own = read_as(path, Results), read_experiment(workdir).evaluation
    windows = _windows_of(eval_config)
    test = {"step": step, **windows, **figures}
    write_noted(workdir, "evaluation.json", json_text({**results, "test": test}))
    is_comparable = results.get("step", step) == step and windows == _windows_of(own)
    return dict(results.get("validation", {})) if is_comparable else {}


def _windows_of(eval_config: EvaluationConfig) -> dict[str, Any]:
    names = ("stride", "context_length", "windows")
    return {name: vars(eval_config)[name] for name in names}


def write_by_position(
    workdir: str | Path, split: str, sums: PositionSums, step: int, eval_config: EvaluationConfig
) -> Path:
    """Writes `by_position_SPLIT.json`, the mean loss at each position, and returns its path.

    Raises:
      OSError: it cannot be written.
    """
    tokens = sums.tokens.sum()
    path = Path(workdir) / f"by_position_{split}.json"
    record = {
        "step": step,
        **_windows_of(eval_config),
        "cross_entropy": float(sums.nats.sum() / tokens),
        "tokens": int(tokens),
        "nats_by_position": (sums.nats / np.where(sums.tokens, sums.tokens, np.nan)).tolist(),
        "tokens_by_position": sums.tokens.astype(int).tolist(),
    }
    write_json(path, record)
    return path


def read_by_position(
    workdir: str | Path, step: int, split: str = "validation"
) -> PositionSums | None:
    """Returns the sums that `write_by_position` recorded at a step for disjoint windows.

    Returns None if the file is missing or cannot be read, or if its step or its windows are others.
    """
    try:
        record = read_as(Path(workdir) / f"by_position_{split}.json", ByPosition)
        means, tokens = record["nats_by_position"], record["tokens_by_position"]
        pairs = list(zip(means, tokens, strict=True))
    except (OSError, ValueError):  # a UserError is one
        return None
    if any(mean is None and count for mean, count in pairs):
        return None
    nats = [0.0 if mean is None else mean * count for mean, count in pairs]
    measured = record["step"], record["stride"], record["context_length"]
    windows = record.get("windows", "documents")  # earlier versions knew no others
    if (*measured, windows) != (step, 0, 0, "documents"):
        return None
    return PositionSums(np.array(nats), np.array(tokens, float))


def wait_for_inputs(workdir: Path, seconds: float = 60) -> None:
    """Raises UserError unless `write_inputs` of another process becomes visible here, too.

    Network file systems may remember for some time that a file did not exist.
    """
    deadline = time.monotonic() + seconds
    while not (workdir / "config.json").exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{workdir} does not show here what process 0 wrote there; "
                "give a --workdir that all hosts share"
            )
        time.sleep(0.5)
