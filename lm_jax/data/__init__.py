"""Data: source -> documents -> tokens -> batches, each a pure function of its configuration."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lm_jax.atomic_files import new_directory, refuse_links
from lm_jax.data.cache import load_split, refuse_damage, save_split, split_bytes
from lm_jax.data.classification.batches import Examples
from lm_jax.data.classification.config import ImageConfig as ImageConfig
from lm_jax.data.classification.config import LabelledTextConfig as LabelledTextConfig
from lm_jax.data.classification.images import prepare_images
from lm_jax.data.classification.labelled_text import LABELLED_TEXT
from lm_jax.data.dataset import Dataset as Dataset
from lm_jax.data.documents import Documents as Documents
from lm_jax.data.documents import TokenizedDocuments as TokenizedDocuments
from lm_jax.data.documents import texts_of as texts_of
from lm_jax.data.pipeline import prepare_text
from lm_jax.data.readers import TOKENS
from lm_jax.data.seq2seq.config import ParallelTextConfig as ParallelTextConfig
from lm_jax.data.seq2seq.config import SymbolsConfig as SymbolsConfig
from lm_jax.data.seq2seq.parallel_corpus import PARALLEL_TEXT
from lm_jax.data.text.config import DataConfig as DataConfig
from lm_jax.data.text.corpus import TEXT
from lm_jax.data.text.token_data import prepare_tokens
from lm_jax.data.token_stream import tokenize as tokenize
from lm_jax.data.tokenizer_config import TokenizerConfig as TokenizerConfig
from lm_jax.data.tokenizers import Tokenizer as Tokenizer
from lm_jax.data.tokenizers import load_tokenizer as load_tokenizer
from lm_jax.data.tokenizers import train_tokenizer as train_tokenizer
from lm_jax.digests import write_manifest

_PREPARE: dict[str, Callable[[Any], Dataset[Any, Any]]] = {
    "text": lambda config: (
        prepare_tokens(config) if config.source == TOKENS else prepare_text(TEXT, config)
    ),
    "labelled_text": partial(prepare_text, LABELLED_TEXT),
    "parallel_text": partial(prepare_text, PARALLEL_TEXT),
    "images": prepare_images,
}


_SPLITS: dict[str, type[Any]] = {
    "text": TEXT.split,
    "labelled_text": LABELLED_TEXT.split,
    "parallel_text": PARALLEL_TEXT.split,
    "images": Examples,
}
_LARGEST_COPY = 16e6  # bytes


def save_held_out(config: Any, dataset: Dataset[Any, Any], workdir: Path) -> None:
    """Writes the splits for validation and test, unless they are large or of a kind from outside.

    Each has a directory of its name, which appears whole or not at all; one that is there stays.

    Raises:
      OSError: it cannot be written.
    """
    for name, split in dataset.splits.items():
        directory = workdir / name
        if name == "train" or directory.exists() or config.kind not in _SPLITS:
            continue
        if split_bytes(split) > _LARGEST_COPY:
            continue
        refuse_links(directory)
        with new_directory(directory) as unfinished:
            save_split(split, unfinished, name)
            write_manifest(unfinished)


def load_held_out(config: Any, workdir: Path, name: str) -> Any | None:
    """Returns a split that `save_held_out` wrote; None if there is none to read."""
    if config.kind not in _SPLITS:
        return None
    try:
        refuse_damage(workdir / name)
        return load_split(_SPLITS[config.kind], workdir / name, name)
    except (OSError, EOFError, ValueError):
        return None


def prepare(config: Any) -> Dataset[Any, Any]:
    """Returns the data set of a configuration: one of `config.KINDS`, or one from outside.

    A configuration from outside has a method `prepare`, which returns the data set.

    Raises:
      UserError: the data cannot be had.
      OSError: the cache directory cannot be written.
    """
    if config.kind in _PREPARE:
        return _PREPARE[config.kind](config)
    return config.prepare()


def expected_sizes(config: Any) -> dict[str, int]:
    """Returns the sizes that the data decides of a model; prepares the data only if it must.

    For text, that is the tokenizer's maximum vocabulary size. Other kinds of data are prepared.

    Raises:
      UserError: the data has to be prepared and cannot be had.
    """
    return config.expected_sizes or prepare(config).sizes
