"""Files of tokens that other codebases made: nanoGPT, llm.c and Megatron.

Tokens stay on disk: they are memory maps. Headers and indices are checked against the sizes of the
files, so that a file that was cut off is refused when it is opened.

- nanoGPT's `train.bin` holds uint16 and nothing else; the token that ends a document follows it.
- llm.c's `.bin` has a header of 256 int32 (magic, version, number of tokens), then uint16 for GPT-2
  or uint32 for Llama 3. Each document follows its end token, and may continue in the next file.
- Megatron's `.bin` holds integers, and its `.idx` their type, the sequences and the documents.
"""

import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm_jax.data.files import find_files
from lm_jax.errors import UserError

_CHUNK = 1 << 22  # tokens or sequences that are looked at at a time

_LLM_C_HEADER = 256 * 4  # bytes
_LLM_C = {20240520: (1, "<u2"), 20240801: (7, "<u4")}  # magic -> version, type of tokens
_LLM_C_EVALUATION = 20240522  # multiple-choice questions, which are no stream of tokens

_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_HEADER = struct.Struct("<9sQBQQ")  # magic, version, type, sequences, documents + 1
_MEGATRON_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats


class TokenFile(NamedTuple):
    """The tokens of a file, in their order."""

    path: str
    format: str  # key of `FORMATS`
    tokens: np.ndarray  # [N] memory map
    document_starts: np.ndarray | None
    """[D + 1] int64: the first token of each document, and N; None: the format does not say, and no
    end token was given. A document has its end token, where there is one. The first one of an llm.c
    file that begins with another token is the rest of a document of the file before."""


def open_token_files(
    pattern: str,
    *,
    end_of_document: int | None = None,
    vocab_size: int | None = None,
    field: str = "data.path",
) -> list[TokenFile]:
    """Returns the token files of a path, a directory or a pattern, in the order of their names.

    Args:
      end_of_document: as for `open_token_file`.
      vocab_size: as for `open_token_file`.
      field: what gives the pattern, for messages.

    Raises:
      UserError: there are none, or one cannot be used.
    """
    # Megatron's index is read with its tokens.
    paths = dict.fromkeys(
        path.with_suffix(".bin") if path.suffix == ".idx" else path
        for path in find_files(pattern, field)
    )
    return [
        open_token_file(path, end_of_document=end_of_document, vocab_size=vocab_size)
        for path in paths
    ]


def open_token_file(
    path: str | Path, *, end_of_document: int | None = None, vocab_size: int | None = None
) -> TokenFile:
    """Returns the tokens of a file, whose format is known by its header or by an index beside it.

    Args:
      end_of_document: the token that parts the documents of nanoGPT and llm.c, such as 50256 of
        GPT-2; Megatron's index names its documents.
      vocab_size: tokens must be less; None: they are not read.

    Raises:
      UserError: the file is missing, empty or cut off, its header or index does not agree with it,
        or a token is beyond the vocabulary.
    """
    path = Path(path)
    if path.suffix == ".idx":
        path = path.with_suffix(".bin")
    if not path.is_file():
        raise UserError(f"{path} is no file; expected a file of tokens (.bin)")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty; expected tokens: make it again or leave it out")
    name = next((name for name, found in FORMATS.items() if found.matches(path)), None)
    if name is None:
        raise UserError(f"{path} is no file of tokens: expected .bin of {', '.join(FORMATS)}")
    tokens, starts = FORMATS[name].open(path)
    if vocab_size is not None:
        _check_vocabulary(path, tokens, vocab_size)
    if starts is None and end_of_document is not None:
        starts = FORMATS[name].starts_by_end(tokens, end_of_document)
    return TokenFile(str(path), name, tokens, starts)


class TokenFormat(NamedTuple):
    """A format of token files."""

    matches: Callable[[Path], bool]
    open: Callable[[Path], tuple[np.ndarray, np.ndarray | None]]
    """Returns tokens and document starts; raises UserError for a file that does not add up."""

    starts_by_end: Callable[[np.ndarray, int], np.ndarray]
    """(tokens, end token) -> document starts."""


def _map(path: Path, dtype: str, count: int, offset: int = 0) -> np.ndarray:
    return np.memmap(path, dtype, "r", offset, (count,))


def _check_vocabulary(path: Path, tokens: np.ndarray, vocab_size: int) -> None:
    for first, part in _chunks(tokens):
        if part.max() >= vocab_size or part.min() < 0:
            at = int(np.flatnonzero((part >= vocab_size) | (part < 0))[0])
            raise UserError(
                f"{path}: token {first + at:,} is {int(part[at])}; expected 0 to {vocab_size - 1}, "
                "the ids of the tokenizer: give the tokenizer that made the file"
            )


def _chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, len(array), _CHUNK):
        yield first, array[first : first + _CHUNK]


def _positions(tokens: np.ndarray, token: int) -> np.ndarray:
    found = [first + np.flatnonzero(part == token) for first, part in _chunks(tokens)]
    return np.concatenate(found).astype(np.int64)


def _starts_after_ends(tokens: np.ndarray, end: int) -> np.ndarray:
    return np.unique(np.concatenate([[0], _positions(tokens, end) + 1, [len(tokens)]]))


def _starts_at_ends(tokens: np.ndarray, end: int) -> np.ndarray:
    return np.unique(np.concatenate([[0], _positions(tokens, end), [len(tokens)]]))


def _begins_with(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _open_nanogpt(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    size = path.stat().st_size
    if size % 2:
        raise UserError(
            f"{path} has {size:,} bytes; expected an even number, since nanoGPT's tokens have 2 "
            "each: it is cut off or of another format"
        )
    return _map(path, "<u2", size // 2), None


def _llm_c_header(path: Path) -> tuple[int, int, int]:
    """Returns magic, version and number of tokens; zeros where the file is shorter."""
    magic, version, count = struct.unpack("<3i", _begins_with(path, 12).ljust(12, b"\0"))
    return magic, version, count


def _is_llm_c(path: Path) -> bool:
    return _llm_c_header(path)[0] in (*_LLM_C, _LLM_C_EVALUATION)


def _open_llm_c(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    magic, version, count = _llm_c_header(path)
    if magic == _LLM_C_EVALUATION:
        raise UserError(f"{path} holds llm.c's multiple-choice questions; expected its tokens")
    expected, dtype = _LLM_C[magic]
    if version != expected:
        raise UserError(f"{path} is llm.c's with version {version}; expected {expected}")
    held = (path.stat().st_size - _LLM_C_HEADER) / np.dtype(dtype).itemsize
    if held != count or count < 1:
        raise UserError(
            f"{path}: its header names {count:,} tokens, but {max(held, 0):,g} follow; it is cut "
            "off or damaged: fetch it again"
        )
    return _map(path, dtype, count, _LLM_C_HEADER), None


def llm_c_header(count: int, itemsize: int) -> bytes:
    """Returns what an llm.c file of tokens of 2 or 4 bytes begins with.

    Raises:
      UserError: there are too many.
    """
    if count >= 1 << 31:
        raise UserError(
            f"{count:,} tokens are more than a file of llm.c's format holds, {(1 << 31) - 1:,}; "
            "split the text, with launch.prepare_data by more --config.tasks"
        )
    magic, version = next(
        (magic, version)
        for magic, (version, dtype) in _LLM_C.items()
        if np.dtype(dtype).itemsize == itemsize
    )
    return struct.pack("<3i", magic, version, count).ljust(_LLM_C_HEADER, b"\0")


def _is_megatron(path: Path) -> bool:
    return path.with_suffix(".idx").is_file()


def _open_megatron(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    index = path.with_suffix(".idx")
    header = _begins_with(index, _MEGATRON_HEADER.size).ljust(_MEGATRON_HEADER.size, b"\0")
    magic, version, code, num_sequences, num_bounds = _MEGATRON_HEADER.unpack(header)
    if magic != _MEGATRON_MAGIC:
        raise UserError(
            f"{index} does not begin with MMIDIDX, as Megatron's index does; fetch it again, or "
            f"remove it if {path.name} is of another format"
        )
    if version != 1:
        raise UserError(f"{index} is Megatron's with version {version}; expected 1")
    if code not in _MEGATRON_TYPES:
        raise UserError(f"{index} names type {code}; expected an integer type, such as 8 (uint16)")
    dtype = np.dtype(_MEGATRON_TYPES[code])
    sizes = (_MEGATRON_HEADER.size, num_sequences * 4, num_sequences * 8, num_bounds * 8)
    ends = list(itertools.accumulate(sizes))[1:]  # integers of Python, which do not overflow
    size = index.stat().st_size
    if size not in (ends[-1], ends[-1] + num_sequences) or num_bounds < 2 or num_sequences < 1:
        raise UserError(
            f"{index} has {size:,} bytes; its header names {num_sequences:,} sequences and "
            f"{num_bounds - 1:,} documents, which take {ends[-1]:,}: it is cut off or empty"
        )
    lengths = _map(index, "<i4", num_sequences, _MEGATRON_HEADER.size)
    pointers = _map(index, "<i8", num_sequences, int(ends[0]))
    bounds = _map(index, "<i8", num_bounds, int(ends[1]))
    total = _check_sequences(index, lengths, pointers, dtype.itemsize)
    held = path.stat().st_size / dtype.itemsize
    if held != total:
        raise UserError(
            f"{path} holds {held:,g} tokens, and {index.name} names {total:,}; one of them is cut "
            "off or of another corpus: fetch both again"
        )
    ordered = (np.all(np.diff(bounds[n : n + _CHUNK + 1]) >= 0) for n, _ in _chunks(bounds))
    if bounds[0] or bounds[-1] != num_sequences or not all(ordered):
        raise UserError(
            f"{index}: its documents do not part its {num_sequences:,} sequences; it is damaged"
        )
    starts = np.append(pointers, total * dtype.itemsize)[bounds] // dtype.itemsize
    return _map(path, dtype.str, total), starts


def _check_sequences(index: Path, lengths: np.ndarray, pointers: np.ndarray, itemsize: int) -> int:
    """Returns the number of tokens, if each sequence begins where the one before ends."""
    total = 0
    for first, part in _chunks(lengths):
        ends = total + np.cumsum(part, dtype=np.int64)
        begins = np.concatenate([[total], ends[:-1]]) * itemsize
        wrong = (pointers[first : first + len(part)] != begins) | (part < 0)
        if wrong.any():
            at = first + int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{index}: sequence {at:,} does not begin where the one before ends; expected "
                "sequences in a row, as Megatron's preprocess_data.py writes them"
            )
        total = int(ends[-1])
    return total


FORMATS: dict[str, TokenFormat] = {  # a file is of the first one that it matches
    "Megatron": TokenFormat(_is_megatron, _open_megatron, _starts_after_ends),
    "llm.c": TokenFormat(_is_llm_c, _open_llm_c, _starts_at_ends),
    "nanoGPT": TokenFormat(lambda path: path.suffix == ".bin", _open_nanogpt, _starts_after_ends),
}
