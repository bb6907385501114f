"""Exports a run for Hugging Face transformers: safetensors, config.json and the tokenizer."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_jax import data
from lm_jax.build import build_experiment, low_rank_of
from lm_jax.errors import UserError
from lm_jax.interop.architectures import exported_as, of_family, with_counterpart
from lm_jax.interop.export_tokenizer import differing_texts, end_of_document, tokenizer_json
from lm_jax.interop.layout import Entry, Shape, entries, shapes_of
from lm_jax.interop.tensor_files import LARGEST_SHARD, Planned, write_tensors
from lm_jax.interop.whole_directory import whole_directory
from lm_jax.json_values import read_object
from lm_jax.models import family_of
from lm_jax.models.low_rank import FACTORS, merged
from lm_jax.models.scale_width import of_width
from lm_jax.runs import workdir as workdirs
from lm_jax.runs.restore import abstract_state
from lm_jax.telemetry.json_files import write_json, write_text
from lm_jax.training.checkpoints import Checkpoints, SavedArray
from lm_jax.training.mup import configurations
from lm_jax.trusted_code import UntrustedCode

_GENERATION = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
_KEPT = ("generation_config.json", "chat_template.jinja")  # of a model that was imported


def export_model(
    workdir: str | Path,
    directory: str | Path,
    checkpoint: str = "last",
    *,
    largest_shard: int = LARGEST_SHARD,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes a folder that `transformers` loads, and returns what it holds.

    Parameters keep the dtype of the checkpoint. Each is read into host memory by itself, whatever
    mesh it was saved from. The folder appears whole or not at all.

    Args:
      checkpoint: `last`, `best` or a step.
      largest_shard: bytes of a file of weights.

    Raises:
      UserError: the run cannot be read, no architecture of transformers computes what its model
        does, or the folder is not empty.
      OSError: the folder cannot be written.
    """
    workdir, directory = Path(workdir), Path(directory)
    experiment = workdirs.read_experiment(workdir)
    built = build_experiment(experiment, workdirs.read_sizes(workdir), jax.devices()[:1])
    config, width = built.experiment.model, experiment.mup_base_width
    of_family(config)  # refuses what has no counterpart, and so does the next
    if width and of_width(config, width) != config:
        config, _ = configurations(config, width)
    exported_as(with_counterpart(_with_plain_logits(config, built.declarations)))
    config = _with_first_length(config, workdir)
    tokenizer = data.load_tokenizer(workdir / "tokenizer")
    with (
        Checkpoints(workdir / "checkpoints", experiment.checkpoint, read_only=True) as checkpoints,
        whole_directory(directory, "--path") as partial,
    ):
        shapes: Any = abstract_state(built)
        checkpoints.refuse_other_shapes(checkpoint, shapes.params)
        step, saved = checkpoints.saved_params(checkpoint)
        if (low_rank := low_rank_of(experiment)) is not None:
            saved = _merged(saved, low_rank.scale)
        values = write_model(config, saved, partial, largest_shard)
        _write_tokenizer(tokenizer, config, workdir, partial, values, log)
        write_json(partial / "config.json", values)
    (name,) = values["architectures"]
    log(f"{name} of step {step} in {directory}")
    size = sum(path.stat().st_size for path in directory.iterdir())
    return {"path": str(directory), "step": step, "architecture": name, "bytes": size}


_ROTARY = ("positions", "rotary_base", "rotary_scaling", "rotary_factor")


def _with_first_length(config: Any, workdir: Path) -> Any:
    """Returns the configuration with the longest context of the runs that its parameters are from.

    Rotary positions have no parameters, so a run that was fine-tuned at a shorter context still
    reads the longer one. Runs that are gone or that turn otherwise do not count.
    """
    longest = config.context_length
    if getattr(config, "positions", "") != "rotary":
        return config
    for run in workdirs.begun_from(workdir):
        try:
            model = workdirs.read_experiment(run).model
        except UntrustedCode:
            raise
        except (UserError, OSError):
            break
        if any(getattr(model, name, None) != getattr(config, name) for name in _ROTARY):
            break
        longest = max(longest, model.context_length)
    return dataclasses.replace(config, context_length=longest)


def write_model(
    config: Any,
    arrays: Mapping[str, SavedArray],
    directory: Path,
    largest_shard: int = LARGEST_SHARD,
) -> dict[str, Any]:
    """Writes the weights of a model for transformers, and returns its config.json.

    Raises:
      UserError: no architecture of transformers computes what the model does.
      OSError: a file cannot be written.
    """
    plain = _with_plain_logits(config, arrays)
    if plain.logit_scale != config.logit_scale:
        arrays = _scaled(arrays, config.logit_scale)
    config = with_counterpart(plain)
    architecture, values = exported_as(config)
    shapes = shapes_of(architecture, config)
    arrays = _with_zero_biases(arrays, shapes)
    wanted = entries(architecture, config, shapes)
    planned = _planned(wanted, arrays)
    write_tensors(directory, planned, _arrays(wanted, arrays, config), largest_shard)
    return values | {"dtype": np.result_type(*(each.dtype for each in planned)).name}


_LAST = "final_norm/"  # its scale and bias multiply the logits, whatever the table


def _with_plain_logits(config: Any, paths: Iterable[str]) -> Any:
    """Returns the configuration with a factor on logits in the last norm, where there is one."""
    has_norm = any(path.startswith(_LAST) for path in paths)
    return dataclasses.replace(config, logit_scale=1.0) if has_norm else config


def _with_zero_biases(
    arrays: Mapping[str, SavedArray], shapes: Mapping[str, Shape]
) -> dict[str, SavedArray]:
    """Returns the arrays with those that only the counterpart of a model has (`with_counterpart`).

    Args:
      shapes: of all arrays of the counterpart, by path.
    """
    dtype = np.result_type(*(array.dtype for array in arrays.values()))
    added = {
        path: SavedArray(shape, dtype, functools.partial(np.zeros, shape, dtype))
        for path, shape in shapes.items()
        if path not in arrays and path.endswith("/bias")
    }
    return {**arrays, **added}


def _scaled(arrays: Mapping[str, SavedArray], factor: float) -> dict[str, SavedArray]:
    def read(array: SavedArray) -> np.ndarray:
        return (array.read() * np.float32(factor)).astype(array.dtype)

    return {
        path: array._replace(read=functools.partial(read, array))
        if path.startswith(_LAST)
        else array
        for path, array in arrays.items()
    }


def _merged(arrays: Mapping[str, SavedArray], scale: float) -> dict[str, SavedArray]:
    """Returns kernels with their low-rank updates, which are added where a kernel is read."""
    parts = {path: path.rpartition("/") for path in arrays}

    def read(layer: str) -> np.ndarray:
        names = ("kernel", *FACTORS)
        read_here = {name: arrays[f"{layer}/{name}"].read() for name in names}
        return np.asarray(merged(read_here, scale)["kernel"])

    return {
        path: array._replace(read=functools.partial(read, layer))
        if name == "kernel" and f"{layer}/{FACTORS[0]}" in arrays
        else array
        for path, array in arrays.items()
        for layer, _, name in [parts[path]]
        if name not in FACTORS
    }


def _planned(wanted: Sequence[Entry], saved: Mapping[str, SavedArray]) -> list[Planned]:
    """Returns names, shapes and dtypes of all tensors, in the order of the table."""
    found = []
    for entry in wanted:
        dtype = np.result_type(*(saved[path].dtype for path in entry.ours))
        found += [
            Planned(name, shape, dtype)
            for name, shape in zip(entry.theirs, entry.shapes, strict=True)
        ]
    return found


def _arrays(
    wanted: Sequence[Entry], saved: Mapping[str, SavedArray], config: Any
) -> Iterator[np.ndarray]:
    """Yields the tensors of others in the order of the table; one row of it is in memory."""
    read: dict[str, np.ndarray] = {}
    for entry in wanted:
        if tuple(read) != entry.ours:
            read.clear()
            read |= {path: saved[path].read() for path in entry.ours}
        ours = [read[path] for path in entry.ours]
        if entry.layer is not None:
            ours = [array[entry.layer] for array in ours]
        yield from entry.transform.to_theirs(ours, config)


def _write_tokenizer(
    tokenizer: data.Tokenizer,
    config: Any,
    workdir: Path,
    directory: Path,
    values: dict[str, Any],
    log: Callable[[str], None],
) -> None:
    """Writes tokenizer and generation settings, and names the end of a text in `values`."""
    imported = workdirs.imported_folder(workdir)
    reads_source = family_of(config).has_encoder
    values |= _special_ids(tokenizer.end_of_document, reads_source, workdir, imported)
    generation = {name: values[name] for name in _GENERATION if name in values}
    write_json(directory / "generation_config.json", generation)
    for name in _KEPT:
        if imported and (imported / name).exists():
            shutil.copy2(imported / name, directory / name)
    text = tokenizer_json(tokenizer)
    if text is None:
        log(f"a tokenizer of kind {tokenizer.kind} has no counterpart there and is left out")
        return
    write_text(directory / "tokenizer.json", text)
    if other := differing_texts(tokenizer, text):
        log(f"the tokenizer there cuts some rare texts otherwise, such as {other[0]!r}")
    described: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_document(tokenizer, text),
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.context_length,
    }
    if imported and (imported / "tokenizer_config.json").exists():
        described |= read_object(imported / "tokenizer_config.json")
    write_json(directory / "tokenizer_config.json", described)
    if imported and (imported / "special_tokens_map.json").exists():
        shutil.copy2(imported / "special_tokens_map.json", directory)


def _special_ids(
    end: int, reads_source: bool, workdir: Path, imported: Path | None
) -> dict[str, Any]:
    """Returns the ids of special tokens for config.json: those of the import, where there was one.

    Without any, transformers would take its own, such as a padding of 0 or 1, whose embedding it
    does not train and which it does not attend to in a prompt.

    Args:
      end: the end of a document, which also begins and pads.
      imported: what came with the weights.
    """
    found: dict[str, Any] = {"eos_token_id": end, "bos_token_id": end}
    if reads_source:
        found["decoder_start_token_id"] = end
    if imported is None:
        return found | {"pad_token_id": end if reads_source else None}
    theirs = read_object(imported / "config.json")
    kept = {"bos_token_id", "eos_token_id", "pad_token_id"}
    if imported.parent == workdir:  # training begins each target with the end
        kept.add("decoder_start_token_id")
    return found | {name: theirs[name] for name in kept & theirs.keys()}
