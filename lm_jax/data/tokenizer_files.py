"""Tokenizers that others trained, read from their files: Hugging Face, sentencepiece, tiktoken."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lm_jax.data.sentencepiece_model import Pieces
from lm_jax.errors import UserError
from lm_jax.json_values import fault_of, parse, read_object

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

    from lm_jax.data.tokenizer_config import TokenizerConfig

_ENDS = (
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "[SEP]",
)  # where no file names an eos_token
_NAMES_OF_END = ("tokenizer_config.json", "special_tokens_map.json")
_KINDS_OF_FILES = {"tokenizer.json": "huggingface", "*.model": "sentencepiece"} | {
    "*.tiktoken": "tiktoken"
}
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_LARGEST_SHARE_OF_SPLIT_TOKENS = 0.01
_MOST_GROWTH = 1000  # of a character by what a tokenizer.json replaces; usual are 1 to 3
_SPARE_IDS = 1 << 16  # that may be of no token, in any vocabulary


class HuggingFace:
    """The codec of a tokenizer.json; special tokens that a text spells are plain text."""

    def __init__(self, model: bytes):
        parts = parse(model)
        if fault := fault_of(parts, _Saved):
            raise ValueError(fault)
        self._tokenizer = _parse(parts["tokenizer"])
        self.end_of_document: int = parts["end_of_document"]
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        if self.end_of_document not in ids:
            raise ValueError(f"end_of_document is {self.end_of_document}, which is no token")
        self._end = self._tokenizer.id_to_token(self.end_of_document) or ""
        self.vocab_size = 1 + max(ids)
        _refuse_sparse_ids(self.vocab_size, len(ids))

    def encode(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """Returns the ids of each text; several texts are encoded in parallel.

        Raises:
          UserError: the vocabulary has no token for a part of a text, and none for unknown text.
        """
        encoded = self._encode(texts)
        return [
            self._encode_end(text) if self.end_of_document in ids else ids
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def _encode(self, texts: Sequence[str]) -> list[Sequence[int]]:
        try:
            with _panics_are_errors():
                found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the package raises no other class
            raise UserError(
                f"the tokenizer cannot encode the text ({error}); clean the text, or take a "
                "tokenizer with a token for unknown text or for each byte"
            ) from None
        return [encoding.ids for encoding in found]

    def _encode_end(self, text: str) -> Sequence[int]:
        """Returns the ids of a text that spells the end, which some models know as a word."""
        first, *rest = text.split(self._end)
        parts = [first]
        for part in rest:
            parts[-1] += self._end[0]
            parts.append(self._end[1:] + part)
        ids = [index for part in self._encode(parts) for index in part]
        if self.end_of_document in ids:
            raise UserError(
                f"the tokenizer encodes part of the text as {self._end}, which ends a document; "
                "set data.tokenizer.end_of_document to another token"
            )
        return ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Returns the first character of each token and the one after its last."""
        return self._tokenizer.encode(text, add_special_tokens=False).offsets

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
          UserError: the steps that its file names for decoding fail.
        """
        try:
            with _panics_are_errors():
                return self._tokenizer.decode(ids, skip_special_tokens=False)
        except Exception as error:  # the package raises no other class
            raise UserError(
                f"the tokenizer cannot decode its tokens ({error}); take another tokenizer.json"
            ) from None

    def outer_characters(self, index: int) -> tuple[str, str]:
        """Returns the first and the last character that a token has after another token."""
        before = self._encode(["x"])[0]
        text = self.decode([*before, index]).removeprefix(self.decode(list(before)))
        return _outer(text)


class _Saved(TypedDict):
    """The saved model of `HuggingFace`."""

    tokenizer: str
    end_of_document: int


class HuggingFaceSpecial(HuggingFace):
    """The codec of a tokenizer.json that reads special tokens where a text spells them."""

    def __init__(self, model: bytes):
        super().__init__(model)
        self._tokenizer.encode_special_tokens = False

    def encode(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """Returns the ids of each text; the end of a document may be among them."""
        return self._encode(texts)


class SavedPieces(Pieces):
    """The codec of a sentencepiece model that others trained, with its own rules for spaces."""

    def __init__(self, model: bytes):
        super().__init__(model)
        if self._processor.eos_id() < 0:
            raise ValueError("it has no piece for the end of a text; train one with --eos_id")

    @property
    def end_of_document(self) -> int:
        """The id that separates documents."""
        return self._processor.eos_id()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text; several texts are encoded in parallel."""
        return self._processor.encode(list(texts), num_threads=-1 if len(texts) > 1 else 1)


class Ranks:
    """The codec of a file of tiktoken, cut by GPT-2's pattern; the id after all ends a document."""

    def __init__(self, model: bytes):
        ranks = _ranks(model)
        self._encoding = _encoding(ranks)
        self.vocab_size = self._encoding.n_vocab
        self.end_of_document = self.vocab_size - 1
        self._known = set(ranks.values())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text; several texts are encoded in parallel."""
        return self._encoding.encode_ordinary_batch(list(texts))

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self._encoding.decode([index for index in ids if index in self._known])

    def outer_characters(self, index: int) -> tuple[str, str]:
        """Returns the first and the last character of a token; a part of one is "x"."""
        return _outer(self.decode([index]))


def read_hugging_face(config: TokenizerConfig) -> bytes:
    """Returns a tokenizer.json and the id of its end of a document, as JSON.

    Raises:
      UserError: there is none, it cannot be read, or no token ends a document.
    """
    path = Path(config.path)
    if path.is_dir():
        path = _only_file(path, "tokenizer.json", "huggingface")
    text = _read(path).decode(errors="replace")
    try:
        tokenizer = _parse(text)
        ids = tokenizer.get_vocab(with_added_tokens=True).values()
        _refuse_sparse_ids(max(ids, default=0) + 1, len(ids))
    except ValueError as error:
        raise UserError(f"{path} is no tokenizer.json that can be read: {error}") from None
    end = config.end_of_document
    candidates = [end] if end else [*_named_ends(path.parent), *_ENDS]
    ends = [tokenizer.token_to_id(token) for token in candidates]
    known = [index for index in ends if index is not None]
    if not known:
        what = f"no token {end!r}" if end else f"none of {', '.join(dict.fromkeys(candidates))}"
        raise UserError(
            f"{path} has {what} to end a document; set data.tokenizer.end_of_document to one of "
            f"its tokens{_special_tokens(tokenizer)}"
        )
    return json.dumps({"tokenizer": text, "end_of_document": known[0]}).encode()


def read_sentencepiece(config: TokenizerConfig) -> bytes:
    """Returns the bytes of a sentencepiece model.

    Raises:
      UserError: there is none, it cannot be read, or no piece ends a text.
    """
    return _read_checked(config, "*.model", "sentencepiece", SavedPieces)


def read_tiktoken(config: TokenizerConfig) -> bytes:
    """Returns the bytes of a file of tiktoken.

    Raises:
      UserError: there is none, it cannot be read, or its tokens are not made by GPT-2's pattern.
    """
    return _read_checked(config, "*.tiktoken", "tiktoken", _check_pattern)


def _read_checked(
    config: TokenizerConfig, pattern: str, kind: str, check: Callable[[bytes], Any]
) -> bytes:
    path = Path(config.path)
    if path.is_dir():
        path = _only_file(path, pattern, kind)
    model = _read(path)
    try:
        check(model)
    except (ValueError, RuntimeError) as error:  # RuntimeError is sentencepiece's
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be read with data.tokenizer.kind={kind}: {message}"
        ) from None
    return model


def _only_file(directory: Path, pattern: str, kind: str) -> Path:
    found = sorted(directory.glob(pattern))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{directory} holds {names}; name one: data.tokenizer.path={found[0]}")
    others = kind_of_files(directory)
    hint = f"; set data.tokenizer.kind={others}" if others else ""
    raise UserError(f"{directory} holds no {pattern}, which data.tokenizer.kind={kind} reads{hint}")


def kind_of_files(path: Path) -> str:
    """Returns the kind whose files a directory holds, or that a file is named as; "" if none."""
    for pattern, kind in _KINDS_OF_FILES.items():
        if path.match(pattern) or (path.is_dir() and any(path.glob(pattern))):
            return kind
    return ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"data.tokenizer.path {path}: there is no such file or directory") from None


def _parse(text: str) -> tokenizers.Tokenizer:
    """Returns a tokenizer that encodes texts as they are: whole, unpadded, always the same way.

    Raises:
      ValueError: the text is no tokenizer.json that the package can read.
    """
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "data.tokenizer.kind=huggingface needs tokenizers: pip install -e '.[tokenizers]'"
        ) from None
    parts = parse(text)
    if not isinstance(parts, dict) or not isinstance(parts.get("model"), dict):
        raise ValueError("its JSON holds no model")
    parts["model"]["dropout"] = None  # of merges, in training
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        if _log_growth(parts.get(name)) > math.log(_MOST_GROWTH):
            raise ValueError(f"its {name} makes texts more than {_MOST_GROWTH:,} times as long")
    try:
        with _panics_are_errors():
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(parts))
    except Exception as error:  # the package raises no other class
        raise ValueError(f"tokenizers {tokenizers.__version__} says {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


@contextmanager
def _panics_are_errors() -> Iterator[None]:
    """Raises ValueError for a panic of Rust code, which is no Exception in Python."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # no package exports the class
            raise
        raise ValueError(f"its code ends in a fault: {error}") from None


def _log_growth(step: Any) -> float:
    """Returns the logarithm of how long a character may become by steps that replace."""
    if not isinstance(step, dict):
        return 0.0
    written = step.get("content", step.get("prepend"))
    own = math.log(max(len(written), 1)) if isinstance(written, str) else 0.0
    inner = (each for value in step.values() if isinstance(value, list) for each in value)
    return own + sum(map(_log_growth, inner))


def _refuse_sparse_ids(vocab_size: int, tokens: int) -> None:
    """Raises ValueError if most ids are of no token: a model would have a row for each of them."""
    if vocab_size > 2 * tokens + _SPARE_IDS:
        raise ValueError(f"its ids run up to {vocab_size - 1:,}, and it has {tokens:,} tokens")


def _named_ends(directory: Path) -> list[str]:
    """Returns the tokens that files beside a tokenizer.json name: `eos_token`, then `sep_token`.

    BERT's texts end with the second and have no first.
    """
    found: dict[str, list[str]] = {"eos_token": [], "sep_token": []}
    for name in _NAMES_OF_END:
        try:
            described = read_object(directory / name)
        except (FileNotFoundError, UserError):
            continue
        tokens = {kind: described.get(kind) for kind in found}
        for kind, token in tokens.items():
            token = token.get("content") if isinstance(token, dict) else token
            found[kind] += [token] if isinstance(token, str) else []
    return [token for tokens in found.values() for token in tokens]


def _special_tokens(tokenizer: tokenizers.Tokenizer) -> str:
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    return f", such as {', '.join(added[:10])}" if added else ""


def _ranks(model: bytes) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(model.splitlines(), 1):
        try:
            token, rank = line.split()
            # Whisper's file ends with a rank that no text has, spelled "=".
            ranks[b"" if token == b"=" else base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"line {number} is no base64 token and rank") from None
    if len(set(ranks.values())) < len(ranks):  # which tiktoken's Rust code panics at
        raise ValueError("two of its tokens have one rank")
    if not all(0 <= rank < 1 << 31 for rank in ranks.values()):
        raise ValueError("a rank is below 0 or above 2,147,483,647")
    _refuse_sparse_ids(max(ranks.values(), default=0) + 1, len(ranks))
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"it has no token for {len(missing)} of the 256 bytes")
    return ranks


def _encoding(ranks: dict[bytes, int]) -> tiktoken.Encoding:
    try:
        import tiktoken
    except ImportError:
        raise UserError(
            "data.tokenizer.kind=tiktoken needs tiktoken: pip install -e '.[tokenizers]'"
        ) from None
    return tiktoken.Encoding(
        "file",
        pat_str=_GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": max(ranks.values()) + 1},
    )


def _check_pattern(model: bytes) -> None:
    """Raises ValueError if many tokens span what GPT-2's pattern cuts apart."""
    ranks = _ranks(model)
    encoding = _encoding(ranks)
    texts = []
    for token in ranks:
        try:
            texts.append(token.decode())
        except UnicodeDecodeError:  # a part of a character
            continue
    split = sum(len(ids) > 1 for ids in encoding.encode_ordinary_batch(texts))
    if split > _LARGEST_SHARE_OF_SPLIT_TOKENS * len(texts):
        raise ValueError(
            f"{split:,} of its {len(ranks):,} tokens span what GPT-2's pattern cuts apart, so that "
            "they were made with another; use the tokenizer.json of that model and "
            "data.tokenizer.kind=huggingface"
        )


def _outer(text: str) -> tuple[str, str]:
    """Returns the first and the last character of a token; "x" for a part of one."""
    first, last = (text[0], text[-1]) if text else ("x", "x")
    return first.replace("\ufffd", "x"), last.replace("\ufffd", "x")
