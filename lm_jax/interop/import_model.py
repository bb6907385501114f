"""Imports a model of Hugging Face transformers: a work directory that all programs read."""

import dataclasses
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import data
from lm_jax.build import build_experiment
from lm_jax.choices import choose
from lm_jax.config.experiment import Experiment
from lm_jax.config.parts import (
    CheckpointConfig,
    EvaluationConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.config.serialization import to_dict
from lm_jax.data.config import KINDS
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.data.tokenizer_files import kind_of_files
from lm_jax.errors import UserError, names_path
from lm_jax.interop.architectures import architecture_of, our_config, read_config
from lm_jax.interop.export_tokenizer import opening_id, special_id
from lm_jax.interop.gguf_files import read_gguf
from lm_jax.interop.layout import Entry, Shape, check, entries, shapes_of
from lm_jax.interop.tables import Architecture
from lm_jax.interop.tensor_files import Tensor, read_tensors
from lm_jax.interop.whole_directory import whole_directory
from lm_jax.json_values import read_object
from lm_jax.models.interface import Variables
from lm_jax.objectives import OBJECTIVES
from lm_jax.runs.workdir import IMPORTED
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json
from lm_jax.training.checkpoints import Checkpoints
from lm_jax.training.state import TrainState

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_USUAL = {"mask_token": "[MASK]"}  # where no file names one
_FINE_TUNING = ScheduleConfig(peak_learning_rate=2e-5)
_TOKENS_IN_BATCH = 16_384  # at most, unless one row is longer: contexts are often thousands


class Source(NamedTuple):
    """A model of others, of which no tensor was read yet."""

    directory: Path
    architecture: Architecture
    config: Any  # ours
    tensors: Mapping[str, Tensor]


def open_model(directory: str | Path, tensors: Mapping[str, Tensor] | None = None) -> Source:
    """Returns the model of a folder with config.json and safetensors.

    Args:
      tensors: of the model; None: those in the folder.

    Raises:
      UserError: something is missing, damaged or not supported.
    """
    directory = Path(directory)
    values = read_config(directory)
    architecture, _ = architecture_of(values)
    try:
        config = our_config(architecture, values)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    tensors = read_tensors(directory) if tensors is None else tensors
    tensors = {_renamed(name): tensor for name, tensor in tensors.items()}
    prefix = architecture.prefix
    if not any(name.startswith(prefix) for name in tensors):  # the model without its head
        tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    return Source(directory, architecture, config, tensors)


def read_arrays(source: Source, scratch: Path) -> dict[str, np.ndarray]:
    """Returns our arrays by path, which lie in files of `scratch`; one tensor is read at a time.

    Raises:
      UserError: tensors are missing, left over or of other shapes.
    """
    tensors, shapes = source.tensors, shapes_of(source.architecture, source.config)
    wanted = entries(source.architecture, source.config, shapes)
    found: dict[str, np.ndarray] = {}
    if lacks_head(source):
        wanted = [entry for entry in wanted if not _is_head(source, entry.ours[0])]
        found |= _new_head(source, shapes)
    check(source.architecture, wanted, tensors, str(source.directory))
    for entry in wanted:
        given = [_float(tensors[name]) for name in entry.theirs]
        for path, part in zip(
            entry.ours, entry.transform.to_ours(given, source.config), strict=True
        ):
            if path not in found:
                dtype = _dtype(part.dtype, path, wanted, tensors)
                found[path] = _new_file(scratch / path.replace("/", "."), dtype, shapes[path])
            found[path][... if entry.layer is None else entry.layer] = part
    return found


def _new_file(path: Path, dtype: np.dtype, shape: Shape) -> np.ndarray:
    """Returns an array that is mapped from a new file.

    Raises:
      OSError: there is no space for it. Found out later, that would end the process by a signal.
    """
    with names_path(path), path.open("wb") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, max(math.prod(shape) * dtype.itemsize, 1))
    return np.memmap(path, dtype, "r+", shape=shape)


def lacks_head(source: Source) -> bool:
    """Returns whether a file has no tensor of a model's head, as files of models without one."""
    architecture = source.architecture
    shapes = shapes_of(architecture, source.config)
    heads = {
        name
        for entry in entries(architecture, source.config, shapes)
        if _is_head(source, entry.ours[0])
        for name in entry.theirs
    }
    return bool(heads) and heads.isdisjoint(source.tensors)


def _is_head(source: Source, path: str) -> bool:
    return path.startswith(source.architecture.head)


def _new_head(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns arrays of a head as initializers draw them, for a model that has none."""
    draw = np.random.default_rng(0)
    found = {}
    for path, shape in shapes.items():
        if _is_head(source, path):
            is_matrix, is_scale = len(shape) > 1, path.endswith("scale")
            array = draw.normal(0, 0.02, shape) if is_matrix else np.full(shape, float(is_scale))
            found[path] = array.astype(np.float32)
    return found


def _float(tensor: Tensor) -> np.ndarray:
    array = tensor.read()
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _dtype(
    first: np.dtype, path: str, wanted: list[Entry], tensors: Mapping[str, Tensor]
) -> np.dtype:
    """Returns the dtype that holds all layers of an array exactly."""
    names = [name for entry in wanted if path in entry.ours for name in entry.theirs]
    there = {tensors[name].dtype for name in names} - {np.dtype(np.float64)}
    return np.result_type(first, *there)


def nested(arrays: Mapping[str, np.ndarray]) -> Variables:
    """Returns arrays by path as nested dicts."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return tree


def import_model(
    path: str | Path,
    workdir: str | Path,
    format: str = "hf",
    *,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes the work directory of a model of others, and returns what it holds.

    Parameters keep the dtype of the file. The directory appears whole or not at all.

    Args:
      path: of the model, as `format` has it.
      format: a key of `FORMATS`.

    Raises:
      UserError: the model cannot be read or is not supported, or the work directory is not empty.
      OSError: the work directory cannot be written.
    """
    path, workdir = Path(path), Path(workdir)
    with whole_directory(workdir, "--workdir") as partial, tempfile.TemporaryDirectory() as files:
        source = choose(FORMATS, format, "--from")(path, Path(files))
        tokenizer = _with_opening(source, _tokenizer(source))
        source = source._replace(config=_with_ids(source, tokenizer))
        experiment = _experiment(source, tokenizer.kind, workdir)
        sizes = {"vocab_size": tokenizer.vocab_size}
        build_experiment(experiment, sizes, jax.devices()[:1])  # refuses what cannot run
        (scratch := partial / "scratch").mkdir()
        arrays = read_arrays(source, scratch)
        params = nested(arrays)
        state = TrainState(jnp.int32(0), jax.random.key(experiment.seed), params, {}, ())
        with Checkpoints(partial / "checkpoints", CheckpointConfig()) as checkpoints:
            checkpoints.save(0, state)
        shutil.rmtree(scratch)
        (partial / IMPORTED).mkdir()
        for name in COMPANIONS:
            if (source.directory / name).exists():
                shutil.copy2(source.directory / name, partial / IMPORTED / name)
        tokenizer.save(partial / "tokenizer")
        description = {"imported_from": str(path.absolute()), "sizes": sizes}
        write_json(partial / "data.json", description)
        write_json(partial / "environment.json", environment())
        write_json(partial / "config.json", to_dict(experiment))
    parameters = sum(array.size for array in arrays.values())
    log(f"{parameters:,} parameters of {source.architecture.classes[0]} in {workdir}")
    if lacks_head(source):
        log("the file has no head: it was drawn, and must be trained before it predicts tokens")
    return {
        "workdir": str(workdir),
        "architecture": source.architecture.classes[0],
        "parameters": parameters,
        "vocab_size": source.config.vocab_size,
    }


def _renamed(name: str) -> str:
    """Returns the name of a tensor, which older files of BERT give gamma and beta."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        name = name.replace(old, new)
    return name


def _open_gguf(path: Path, files: Path) -> Source:
    model = read_gguf(path)
    for name, content in model.files.items():
        (files / name).write_bytes(content)
    return open_model(files, model.tensors)


FORMATS: dict[str, Callable[[Path, Path], Source]] = {
    "hf": lambda path, files: open_model(path),
    "gguf": _open_gguf,
}
"""Name -> (path, empty folder for files that the model holds in itself) -> the model."""


def _special_tokens(directory: Path) -> dict[str, Any]:
    """Returns the special tokens that files of a tokenizer name, with its other settings."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = directory / name
        found |= read_object(path) if path.exists() else {}
    return {k: v.get("content") if isinstance(v, dict) else v for k, v in found.items()}


def _with_opening(source: Source, tokenizer: data.Tokenizer) -> data.Tokenizer:
    """Returns a tokenizer with the token behind which its model was trained.

    `add_bos_token` decides as in transformers; where no file has it, the tokenizer itself does.
    """
    described = _special_tokens(source.directory)
    adds = described.get("add_bos_token")
    token = described.get("bos_token") if adds else None
    index = special_id(tokenizer, token) if isinstance(token, str) else None
    if adds is None:
        index = opening_id(tokenizer)
    return tokenizer._replace(opening=None if index == tokenizer.end_of_document else index)


def _with_ids(source: Source, tokenizer: data.Tokenizer) -> Any:
    """Returns our configuration with the ids of special tokens that its tokenizer knows."""
    described = _special_tokens(source.directory)
    ids = {}
    for field, name in source.architecture.of_tokenizer.items():
        token = described.get(name) or _USUAL.get(name)
        index = special_id(tokenizer, token) if token else None
        if index is None:
            raise UserError(
                f"{source.directory}: the files of the tokenizer name no {name} that the tokenizer "
                f"knows, which {source.architecture.classes[0]} needs; restore it"
            )
        ids[field] = index
    return dataclasses.replace(source.config, **ids)


def _tokenizer(source: Source) -> data.Tokenizer:
    directory = source.directory.absolute()
    kind = kind_of_files(directory)
    if not kind:
        raise UserError(
            f"{directory} holds no tokenizer; expected tokenizer.json, a *.model of sentencepiece "
            "or a *.tiktoken"
        )
    return data.train_tokenizer(TokenizerConfig(kind=kind, path=str(directory)), [])


def _experiment(source: Source, kind: str, workdir: Path) -> Experiment:
    tokenizer = TokenizerConfig(kind=kind, path=str(workdir.absolute()))  # its own copy
    objective = OBJECTIVES[source.architecture.objective]
    kind_of_data: Any = KINDS[objective.data_kinds[0]].small()
    length = max(source.config.lengths().values())
    rows = min(max(_TOKENS_IN_BATCH // length, 1), TrainingConfig().batch_size)
    return Experiment(
        objective=objective.name,
        model=source.config,
        data=dataclasses.replace(kind_of_data, tokenizer=tokenizer),
        schedule=dataclasses.replace(_FINE_TUNING),
        training=TrainingConfig(batch_size=rows),
        evaluation=EvaluationConfig(batch_size=rows),
    )
