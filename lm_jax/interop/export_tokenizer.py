"""Tokenizers of runs as files of the package `tokenizers`, which transformers reads."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lm_jax.data.tokenizers import AWKWARD_TEXTS, Tokenizer
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TheirTokenizer

_SPACE = "\u2581"  # how sentencepiece writes spaces


def tokenizer_json(tokenizer: Tokenizer) -> str | None:
    """Returns a tokenizer.json that makes the same tokens, or None where there is none.

    Raises:
      UserError: `tokenizers` is not installed.
    """
    write = _WRITERS.get(tokenizer.kind)
    return None if write is None else write(tokenizer)


def differing_texts(tokenizer: Tokenizer, text: str) -> list[str]:
    """Returns the awkward texts that a tokenizer.json cuts otherwise than our tokenizer."""
    theirs = _package().Tokenizer.from_str(text)
    return [
        each
        for each in AWKWARD_TEXTS
        if theirs.encode(each, add_special_tokens=False).ids != tokenizer.encode(each).tolist()
    ]


def end_of_document(tokenizer: Tokenizer, text: str) -> str:
    """Returns how a tokenizer.json spells the end of a document."""
    return _package().Tokenizer.from_str(text).id_to_token(tokenizer.end_of_document)


def special_id(tokenizer: Tokenizer, token: str) -> int | None:
    """Returns the id of a token by its spelling; None where there is none."""
    if tokenizer.kind == "sentencepiece":
        return _piece_id(tokenizer, token)
    text = tokenizer_json(tokenizer)
    return None if text is None else _package().Tokenizer.from_str(text).token_to_id(token)


def _piece_id(tokenizer: Tokenizer, piece: str) -> int | None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    index = processor.piece_to_id(piece)
    return index if processor.id_to_piece(index) == piece else None


def opening_id(tokenizer: Tokenizer) -> int | None:
    """Returns the special token that a tokenizer.json puts before a text; None: it puts none."""
    text = tokenizer_json(tokenizer)
    if text is None:
        return None
    theirs = _package().Tokenizer.from_str(text)
    theirs.no_padding()
    theirs.no_truncation()
    try:
        found = theirs.encode("a")
    except Exception:  # it has no token for the letter; the package raises no other class
        return None
    own = found.special_tokens_mask.index(0) if 0 in found.special_tokens_mask else 0
    return found.ids[0] if own else None


def _package() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError("exports need tokenizers: pip install -e '.[tokenizers]'") from None
    return tokenizers


def _as_it_was_read(tokenizer: Tokenizer) -> str:
    return json.loads(tokenizer.model)["tokenizer"]


def _of_bytes(tokenizer: Tokenizer) -> str:
    """Returns a tokenizer of single bytes, each written as GPT-2 writes it."""
    package = _package()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    characters = {byte: chr(byte) for byte in printable}
    characters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    vocabulary = {character: byte for byte, character in characters.items()}
    made = package.Tokenizer(package.models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = package.decoders.ByteLevel()
    return _with_end(made, "<|endoftext|>")


def _of_pieces(model: Callable[[Any, Any], Any]) -> Callable[[Tokenizer], str]:
    """Returns the writer of sentencepiece models that were trained here."""

    def write(tokenizer: Tokenizer) -> str:
        import sentencepiece

        package = _package()
        processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
        made = package.Tokenizer(model(package, processor))
        made.normalizer = package.normalizers.Replace(" ", _SPACE)
        made.decoder = package.decoders.Sequence(
            [
                package.decoders.Replace(_SPACE, " "),
                package.decoders.ByteFallback(),
                package.decoders.Fuse(),
            ]
        )
        return _with_end(made, processor.id_to_piece(tokenizer.end_of_document))

    return write


def _with_end(made: "TheirTokenizer", end: str) -> str:
    made.add_special_tokens([end])
    return made.to_str()


def _pieces(processor: Any) -> Mapping[str, float]:
    indices = range(processor.get_piece_size())
    return {processor.id_to_piece(index): processor.get_score(index) for index in indices}


def _unigram(package: Any, processor: Any) -> Any:
    return package.models.Unigram(list(_pieces(processor).items()), 0, byte_fallback=True)


def _merges(package: Any, processor: Any) -> Any:
    """Returns the byte-pair model of sentencepiece: of all pairs it merges the likeliest piece."""
    scores = _pieces(processor)
    ids = {piece: index for index, piece in enumerate(scores)}
    plain = [
        piece
        for piece, index in ids.items()
        if not (processor.is_byte(index) or processor.is_control(index))
    ]
    known, pairs = set(plain), []
    for piece in sorted(plain, key=lambda piece: -scores[piece]):
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        pairs += [pair for pair in halves if pair[0] in known and pair[1] in known]
    unknown = processor.id_to_piece(processor.unk_id())
    return package.models.BPE(
        vocab=ids, merges=pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True
    )


_WRITERS: Mapping[str, Callable[[Tokenizer], str]] = {
    "huggingface": _as_it_was_read,
    "byte": _of_bytes,
    "bpe": _of_pieces(_merges),
    "unigram": _of_pieces(_unigram),
    "char": _of_pieces(_unigram),
}
