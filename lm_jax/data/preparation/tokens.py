"""Tokenizing, the last step of a preparation: token files that `data.source=tokens` reads.

`tokens/train/00003.bin` and `tokens/validation/00003.bin` hold the documents of a task, as llm.c
has them; a hash of each document decides on which side it is. `tokens/tokenizer/` holds the
tokenizer, which is trained on documents of the training side.
"""

import functools
import gzip
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from datatrove.pipeline.base import PipelineStep

from lm_jax.data.cleaning import uniform
from lm_jax.data.preparation.documents import read_tallies, write_tally
from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.sealed_files import checked_files, seal
from lm_jax.data.spool import spooled
from lm_jax.data.text.corpus import training_sample
from lm_jax.data.token_files import llm_c_header
from lm_jax.data.token_stream import batches_of, encode_pieces, token_type
from lm_jax.data.tokenizer_config import tokenizer_of
from lm_jax.data.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from lm_jax.errors import UserError

SIDES = ("train", "validation")
_SIZES = ("tokens", "characters", "bytes", "words")


def _texts(path: Path, side: str, fraction: float) -> Iterator[str]:
    """Yields the texts of one side in a file of the corpus."""
    with gzip.open(path, "rb") as file:
        for line in file:
            text = orjson.loads(line)["text"]
            if (uniform(text) < fraction) == (side == "validation"):
                yield text


class MakeTokenizer(PipelineStep):
    """Trains the tokenizer on a sample of the training side, or takes the one that is named."""

    type, name = "TRAIN", "tokenizer"

    def __init__(self, corpus: Path, work: Path, plan: Plan):
        super().__init__()
        self.corpus, self.work = corpus, work
        self.tokenizer, self.fraction = plan.config.tokenizer, plan.config.validation_fraction

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes the tokenizer.

        Raises:
          UserError: the texts do not support it.
        """
        config = tokenizer_of(self.tokenizer)
        paths = checked_files(self.work, self.corpus / "documents", "*.jsonl.gz")
        sample = (
            []
            if config.path
            else training_sample(
                spooled(
                    (text for path in paths for text in _texts(path, "train", self.fraction)),
                    self.work,
                ),
                config,
            )
        )
        if paths:  # else there is nothing to tokenize, as is said when the corpus is finished
            directory = self.corpus / "tokens" / "tokenizer"
            train_tokenizer(config, sample).save(directory)
            seal(self.work, *directory.iterdir())


class WriteTokens(PipelineStep):
    """Writes the token files of a task, with their counts and digests in a tally."""

    type, name = "WRITE", "tokens"

    def __init__(self, corpus: Path, work: Path, plan: Plan):
        super().__init__()
        self.corpus, self.work, self.fraction = corpus, work, plan.config.validation_fraction

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes a file for each side that has documents."""
        documents = checked_files(self.work, self.corpus / "documents", f"{rank:05d}.jsonl.gz")
        entries = []
        for side in SIDES if documents else ():  # a task without documents has no file
            path = self.corpus / "tokens" / side / f"{rank:05d}.bin"
            texts = _texts(documents[0], side, self.fraction)
            counts = _write(path, texts, _loaded(self.work, self.corpus / "tokens" / "tokenizer"))
            if not counts:
                continue
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            seal(self.work, path)
            size = path.stat().st_size
            entries.append({"name": f"{side}/{path.name}", "sha256": digest, "size": size} | counts)
        write_tally(self.work, "tokens", rank, {"files": entries})


@functools.lru_cache(maxsize=1)
def _loaded(work: Path, directory: Path) -> Tokenizer:
    """Returns the tokenizer, which a process loads once."""
    checked_files(work, directory, "*")
    return load_tokenizer(directory)


def _write(path: Path, texts: Iterator[str], tokenizer: Tokenizer) -> dict[str, int]:
    """Writes texts as tokens, each after the end of a document; returns counts, {} without any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    width = np.dtype(token_type(tokenizer)).itemsize
    kind = f"<u{width}"
    documents, sizes = 0, np.zeros(len(_SIZES), np.int64)
    with partial.open("wb") as file:
        file.write(llm_c_header(0, width))
        file.write(np.array([tokenizer.end_of_document], kind).tobytes())
        for batch in batches_of(texts, tokenizer.encodes_in_pieces):
            encoded = encode_pieces(tokenizer, batch)
            file.write(encoded.tokens.astype(kind).tobytes())
            documents += int(encoded.is_last.sum())
            sizes += encoded.sizes.sum(axis=0)
        file.seek(-width, os.SEEK_END)  # the end of the last document opens none
        file.truncate()
        file.seek(0)
        file.write(llm_c_header(int(sizes[0]), width))
    if not documents:
        partial.unlink()
        return {}
    os.replace(partial, path)
    return {"documents": documents} | dict(zip(_SIZES, sizes.tolist(), strict=True))


def add_tokens(plan: Plan, corpus: Path) -> None:
    """Adds the phases that tokenize the documents of a corpus."""
    plan.phase("tokenizer", [MakeTokenizer(corpus, plan.directory, plan)], tasks=1)
    plan.phase("tokens", [WriteTokens(corpus, plan.directory, plan)])


def token_manifest(corpus: Path) -> dict[str, Any]:
    """Returns what the manifest says of the tokens.

    Raises:
      UserError: no document is left to train on.
    """
    files = [entry for tally in read_tallies(corpus / "work", "tokens") for entry in tally["files"]]
    files.sort(key=lambda entry: entry["name"])
    total = {
        side: {
            key: sum(file[key] for file in files if file["name"].startswith(side))
            for key in ("documents", *_SIZES)
        }
        for side in SIDES
    }
    if not total["train"]["documents"]:
        raise UserError(
            "every document is held out from the tokens; give a smaller "
            "--config.validation_fraction"
        )
    for folder in (*SIDES, "tokenizer"):
        checked_files(corpus / "work", corpus / "tokens" / folder, "*")
    tokenizer = load_tokenizer(corpus / "tokens" / "tokenizer")
    found = {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
        "lossless": tokenizer.lossless,
        "sha256": hashlib.sha256(tokenizer.model).hexdigest(),
    }
    return {"tokens": {"tokenizer": found, "total": total, "files": files}}
