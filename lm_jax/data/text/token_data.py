"""Corpora that others have tokenized: token files as one stream of ours, with their tokenizer."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.data.cache import cache_directory, cached
from lm_jax.data.dataset import Dataset
from lm_jax.data.documents import TokenizedDocuments, texts_of
from lm_jax.data.pipeline import load_dataset, recalled, write_dataset
from lm_jax.data.text.config import DataConfig
from lm_jax.data.text.corpus import Corpus
from lm_jax.data.token_files import TokenFile, open_token_files
from lm_jax.data.token_stream import token_type
from lm_jax.data.tokenizers import Tokenizer, identity, train_tokenizer
from lm_jax.data.unchanged_files import Prepared, memory_of
from lm_jax.errors import UserError
from lm_jax.plurals import counted

_FORMAT = 1  # raise it when the cached files change meaning
_CHUNK = 1 << 22  # tokens that are copied at a time


def prepare_tokens(config: DataConfig) -> Corpus:
    """Returns the data set of token files, from the cache if it was prepared before.

    The tokenizer at `config.tokenizer.path` is the one that made the files: it names the token that
    parts documents, and gives the characters of held-out text back if it loses none.

    Raises:
      UserError: a file cannot be used, holds a token beyond the vocabulary, or a split is empty.
      OSError: the cache directory cannot be written.
    """
    config.validate()
    root = cache_directory(config.cache_directory)
    tokenizer = train_tokenizer(config.tokenizer, [])
    choices = asdict(config) | {"format": _FORMAT, "tokenizer": identity(config.tokenizer)}
    memory = memory_of(list(filter(None, config.paths)), choices, root)
    if memory and (known := recalled(memory, TokenizedDocuments, root)):
        return known
    files = {
        name: open_token_files(
            path, end_of_document=tokenizer.end_of_document, vocab_size=tokenizer.vocab_size
        )
        for name, path in (
            ("train", config.path),
            ("validation", config.validation_path),
            ("test", config.test_path),
        )
        if path
    }
    digest = _sha256(files.values())
    key_of = [digest, _FORMAT, choices["tokenizer"], config.validation_fraction]
    key = hashlib.sha256(json.dumps(key_of, sort_keys=True).encode()).hexdigest()[:32]
    dataset = cached(
        root / key,
        lambda: _make(config, files, tokenizer, digest, key),
        write_dataset,
        lambda directory: load_dataset(TokenizedDocuments, directory),
    )
    description = dataset.description | {"path": config.path}
    if memory:
        memory.keep(Prepared(key, description))
    return dataset._replace(description=description)


def _sha256(splits: Any) -> str:
    digest = hashlib.sha256()
    for files in splits:
        for file in files:
            digest.update(f"{file.format} {len(file.tokens)} {file.tokens.dtype}".encode())
            for first in range(0, len(file.tokens), _CHUNK):
                digest.update(file.tokens[first : first + _CHUNK].tobytes())
        digest.update(b"\0")
    return digest.hexdigest()


def _make(
    config: DataConfig,
    files: dict[str, list[TokenFile]],
    tokenizer: Tokenizer,
    digest: str,
    key: str,
) -> Corpus:
    root = cache_directory(config.cache_directory)
    splits = {name: _stream(found, tokenizer, root) for name, found in files.items()}
    how = "the data set's own"
    if "validation" not in splits:
        splits |= _without_tail(splits["train"], config.validation_fraction, config.path)
        how = f"the last documents, {config.validation_fraction:g} of the tokens"
    counts: dict[str, dict[str, int]] = {}
    for name, split in splits.items():
        counts[name] = {"documents": len(split.characters), "tokens": int(split.starts[-1])}
        if name != "train" and tokenizer.lossless:
            splits[name] = _counted(split, tokenizer)
            counts[name]["characters"] = int(splits[name].characters.sum())
            counts[name]["words"] = int(splits[name].words.sum())
    sizes = ", ".join(
        f"{found['tokens']:,} tokens in {counted(found['documents'], 'document')} to {purpose}"
        for purpose, found in zip(("train on", "validate", "test"), counts.values(), strict=False)
    )
    formats = " and ".join(sorted({file.format for found in files.values() for file in found}))
    description = {
        "source": config.source,
        "path": config.path,
        "sha256": digest,
        "fingerprint": key,
        "formats": formats,
        "split": how,
        "sizes": {"vocab_size": tokenizer.vocab_size},
        **counts,
        "summary": (
            f"{sizes}, of {formats} (split: {how}); vocabulary: {tokenizer.vocab_size:,} tokens; "
            f"SHA-256 {digest[:12]}"
        ),
    }
    ordered = {name: splits[name] for name in ("train", "validation", "test") if name in splits}
    return Dataset(description=description, tokenizer=tokenizer, files=None, **ordered)


def _stream(
    files: Sequence[TokenFile], tokenizer: Tokenizer, directory: Path
) -> TokenizedDocuments:
    """Returns token files as one stream, in which an end opens and closes every document."""
    end, kind = tokenizer.end_of_document, token_type(tokenizer)
    starts: list[np.ndarray] = []
    written = 0
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory, buffering=1 << 20) as out:
        for part in _with_ends(files, end):
            out.write(part.astype(kind).tobytes())
            starts.append(written + np.flatnonzero(part == end))
            written += len(part)
        out.flush()
        tokens = np.memmap(out, kind, "r")
    bounds = np.concatenate(starts).astype(np.int64)
    unknown = np.zeros(len(bounds) - 1, np.int64)  # what would take decoding all of it
    return TokenizedDocuments(tokens, bounds, unknown, unknown, unknown)


def _with_ends(files: Sequence[TokenFile], end: int) -> Iterator[np.ndarray]:
    """Yields the tokens of files in parts; first and last of all is an end.

    Documents that an index names, and that have no end of their own, get one.
    """
    last = -1
    for file in files:
        indexed = file.format == "Megatron"
        ends = np.array([], np.int64)  # where an end is missing
        if indexed and file.document_starts is not None:
            stops = file.document_starts[1:]
            ends = stops[file.tokens[stops - 1] != end]
        for first in range(0, len(file.tokens), _CHUNK):
            part = np.asarray(file.tokens[first : first + _CHUNK]).astype(np.int64)
            inside = ends[(first < ends) & (ends <= first + len(part))] - first
            part = np.insert(part, inside, end)
            if last == -1 and part[0] != end:
                part = np.insert(part, 0, end)
            last = int(part[-1])
            yield part
    if last != end:
        yield np.array([end], np.int64)


def _without_tail(
    split: TokenizedDocuments, fraction: float, path: str
) -> dict[str, TokenizedDocuments]:
    starts = split.starts
    cut = int(np.searchsorted(starts, (1 - fraction) * starts[-1]))
    cut = min(max(cut, 1), len(starts) - 2)
    if len(starts) < 3:
        raise UserError(
            f"{path} holds one document, of which none can be held out; name held-out tokens with "
            "data.validation_path"
        )
    tokens, sizes = split.tokens, np.zeros(len(starts) - 1, np.int64)
    return {
        "train": TokenizedDocuments(
            tokens[: starts[cut] + 1], starts[: cut + 1], *[sizes[:cut]] * 3
        ),
        "validation": TokenizedDocuments(
            tokens[starts[cut] :], starts[cut:] - starts[cut], *[sizes[cut:]] * 3
        ),
    }


def _counted(split: TokenizedDocuments, tokenizer: Tokenizer) -> TokenizedDocuments:
    """Returns a split with the sizes of its texts."""
    sizes = [
        (len(text), len(text.encode()), len(text.split())) for text in texts_of(tokenizer, split)
    ]
    characters, octets, words = np.array(sizes, np.int64).T
    return split._replace(characters=characters, bytes=octets, words=words)
