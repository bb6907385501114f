"""Texts as one stream of tokens: on all cores, in bounded memory, the same whatever the cores."""

import itertools
import os
import pickle
import queue
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm_jax.data.documents import TokenizedDocuments
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.errors import UserError, names_path
from lm_jax.progress import shown

_BATCH = 2_000_000  # characters that are encoded together
_LONGEST_PIECE = 4_000_000  # characters of one text that are encoded together
_FEW = 20_000_000  # characters that are not worth starting processes for
_BEFORE_SPACE = re.compile(r"(?<=[^ ])(?= )")


class Piece(NamedTuple):
    """A document or, if it is very long, a part of it."""

    text: str
    is_last: bool  # the document ends with it


class Encoded(NamedTuple):
    """Pieces as tokens, and their sizes."""

    tokens: np.ndarray  # [N], the end of each document included
    sizes: np.ndarray  # [P, 4] int64: tokens, code points, bytes of UTF-8, words between spaces
    is_last: np.ndarray  # [P] bool


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], directory: Path | None = None
) -> TokenizedDocuments:
    """Returns documents as one stream of tokens, with the sizes of their raw text.

    The stream is a map of an unnamed file, which is gone with it.

    Args:
      directory: on whose disk the file is; None: the one of temporary files.

    Raises:
      UserError: a text cannot be encoded.
      OSError: the disk is full; names the directory.
    """
    sizes, is_last = [], []
    place = directory or Path(tempfile.gettempdir())
    with names_path(place), tempfile.TemporaryFile(dir=directory, buffering=1 << 20) as file:
        file.write(np.array([tokenizer.end_of_document], token_type(tokenizer)).tobytes())
        for batch in encode_batches(tokenizer, shown(texts, len(texts), "tokenizing")):
            file.write(batch.tokens.tobytes())
            sizes.append(batch.sizes)
            is_last.append(batch.is_last)
        file.flush()
        tokens = np.memmap(file, token_type(tokenizer), "r")
    lasts = np.flatnonzero(np.concatenate(is_last))
    firsts = np.append(0, lasts[:-1] + 1)
    counts, characters, octets, words = np.add.reduceat(np.concatenate(sizes), firsts).T
    return TokenizedDocuments(tokens, np.append(0, np.cumsum(counts)), characters, octets, words)


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> Encoded:
    """Returns pieces of documents as tokens.

    Raises:
      UserError: a text cannot be encoded.
    """
    end = np.array([tokenizer.end_of_document], np.int32)
    texts = [piece.text for piece in pieces]
    encoded = [
        np.concatenate([ids, end]) if piece.is_last else ids
        for ids, piece in zip(tokenizer.encode_all(texts), pieces, strict=True)
    ]
    sizes = [
        (len(tokens), len(text), len(text.encode()), len(text.split()))
        for tokens, text in zip(encoded, texts, strict=True)
    ]
    return Encoded(
        np.concatenate(encoded).astype(token_type(tokenizer)),
        np.array(sizes, np.int64),
        np.array([piece.is_last for piece in pieces]),
    )


def token_type(tokenizer: Tokenizer) -> type[np.generic]:
    """Returns the type of tokens on disk: two bytes a token where they suffice."""
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32


def batches_of(texts: Iterable[str], in_pieces: bool = True) -> Iterator[list[Piece]]:
    """Yields all texts in batches; which ones depends on the arguments alone.

    Args:
      in_pieces: whether very long texts are cut.
    """
    batch: list[Piece] = []
    size = 0
    for text in texts:
        for piece in _pieces(text) if in_pieces else [Piece(text, True)]:
            batch.append(piece)
            size += len(piece.text)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[Piece]:
    """Yields a text in pieces that encode as the whole does.

    A piece ends before a space that follows another character, which no token of bytes, characters,
    merges or words spans. Where there is none, it ends with a line or anywhere.
    """
    start = 0
    while len(text) - start > _LONGEST_PIECE:
        least = start + _LONGEST_PIECE // 2
        found = _BEFORE_SPACE.search(text, least, start + _LONGEST_PIECE)
        line_end = text.rfind("\n", least, start + _LONGEST_PIECE) + 1
        stop = found.start() if found else line_end or start + _LONGEST_PIECE
        yield Piece(text[start:stop], False)
        start = stop
    yield Piece(text[start:] if start else text, True)


def encode_batches(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[Encoded]:
    """Yields all batches of texts as tokens, in their order.

    Raises:
      UserError: a text cannot be encoded, or the processes that encode end without a result.
    """
    batches = batches_of(texts, tokenizer.encodes_in_pieces)
    first = list(itertools.islice(batches, _FEW // _BATCH))
    following = next(batches, None)
    workers = _cores()
    if following is None or workers == 1:
        rest = itertools.chain([] if following is None else [following], batches)
        yield from (encode_pieces(tokenizer, each) for each in itertools.chain(first, rest))
        return
    yield from _in_processes(tokenizer, itertools.chain(first, [following], batches), workers)


def _cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")  # which macOS does not
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _in_processes(
    tokenizer: Tokenizer, batches: Iterator[list[Piece]], workers: int
) -> Iterator[Encoded]:
    waiting: deque[Future[Encoded]] = deque()
    with tempfile.TemporaryDirectory(prefix="lm_jax_tokenizer") as directory:
        tokenizer.save(Path(directory))
        processes = [_Worker(directory) for _ in range(workers)]
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for process in processes:
            idle.put(process)

        def encode(batch: list[Piece]) -> Encoded:
            process = idle.get()
            try:
                return process.encode(batch)
            finally:
                idle.put(process)

        threads = ThreadPoolExecutor(workers)
        try:
            for batch in batches:
                waiting.append(threads.submit(encode, batch))
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)
            for process in processes:
                process.close()


class _Worker:
    """A process that encodes batches, started again once if it ends."""

    def __init__(self, directory: str):
        self._command = [sys.executable, "-m", "lm_jax.data.token_worker", directory]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def encode(self, batch: list[Piece]) -> Encoded:
        for _ in range(2):
            assert self._process.stdin is not None and self._process.stdout is not None
            try:
                pickle.dump(batch, self._process.stdin)
                self._process.stdin.flush()
                found = pickle.load(self._process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                self.close()
                self._process = self._start()
                continue
            if isinstance(found, UserError):
                raise found
            return found
        raise UserError(
            f"a process that tokenizes ended twice (status {self._process.returncode}) on "
            f"{sum(len(piece.text) for piece in batch):,} characters; is there memory left?"
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
