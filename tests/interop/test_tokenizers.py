"""Tokenizers of runs, written for the package `tokenizers`: the same tokens, the same text."""

import json
import random
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, processors

from lm_jax.data import train_tokenizer
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.data.tokenizers import AWKWARD_TEXTS
from lm_jax.interop.export_tokenizer import end_of_document, tokenizer_json
from lm_jax.interop.import_model import _with_opening

TEXT = "the cat sat on the mat, and the dog sat on the log; nothing else was there. " * 9
KINDS = {"byte": 0, "char": 290, "bpe": 330, "unigram": 280}


def words(seed):
    draw = random.Random(seed)
    letters = "the catdogs.,;\n\n  mnéö日本\U0001f642"
    return "".join(draw.choice(letters) for _ in range(draw.randrange(60)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_tokenizer_makes_the_same_tokens_and_the_same_text(kind):
    ours = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=KINDS[kind] or 1), [TEXT])
    text = tokenizer_json(ours)
    theirs = Tokenizer.from_str(text)
    for each in (TEXT, *AWKWARD_TEXTS, *map(words, range(200))):
        ids = theirs.encode(each, add_special_tokens=False).ids
        assert ids == ours.encode(each).tolist(), each
        assert theirs.decode(ids, skip_special_tokens=False) == each
    end = end_of_document(ours, text)
    assert theirs.token_to_id(end) == ours.end_of_document
    assert theirs.get_vocab_size() == ours.vocab_size


def test_a_vocabulary_of_words_has_no_counterpart():
    assert tokenizer_json(train_tokenizer(TokenizerConfig(kind="word"), [TEXT])) is None


@pytest.mark.parametrize(
    ("template", "described", "expected"),
    [
        ("", {}, 256),
        ("A $A", {}, 65),  # as Llama 3 has it
        ("A $A B", {}, 65),  # as BERT
        ("$A B", {}, 256),  # as T5
        ("", {"add_bos_token": True, "bos_token": {"content": "B"}}, 66),
        ("A $A", {"add_bos_token": False, "bos_token": "A"}, 256),
        ("", {"bos_token": "A"}, 256),  # as GPT-2 and Qwen, which read none
    ],
)
def test_a_model_reads_the_token_that_its_tokenizer_puts_first(
    tmp_path, template, described, expected
):
    theirs = Tokenizer.from_str(tokenizer_json(train_tokenizer(TokenizerConfig("byte"), [])))
    if template:
        special = [("A", 65), ("B", 66)]
        theirs.post_processor = processors.TemplateProcessing(template, special_tokens=special)
    theirs.enable_padding(direction="left", length=9)
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    tokenizer = train_tokenizer(TokenizerConfig("huggingface", path=str(tmp_path)), [])
    found = _with_opening(SimpleNamespace(directory=tmp_path), tokenizer)
    assert (found.beginning, found.end_of_document) == (expected, 256)


def test_a_model_of_sentencepiece_opens_with_the_piece_that_its_files_name(tmp_path):
    pieces = train_tokenizer(TokenizerConfig("bpe", vocab_size=330), [TEXT])
    tokenizer = pieces._replace(kind="sentencepiece")
    piece = Tokenizer.from_str(tokenizer_json(pieces)).id_to_token(300)
    for token, expected in {piece: 300, "<no piece>": pieces.end_of_document}.items():
        described = {"add_bos_token": True, "bos_token": token}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
        found = _with_opening(SimpleNamespace(directory=tmp_path), tokenizer)
        assert found.beginning == expected
