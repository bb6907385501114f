import os
import signal

import numpy as np
import pytest

from lm_jax.data import TokenizerConfig, token_stream, tokenize
from lm_jax.data.embedded import python_reference
from lm_jax.data.spool import Selected, Spool, spooled
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError

TEXTS = [*python_reference()[:12], "", "日本語 と русский\n", "no end of spaces    "]
KINDS = ("byte", "char", "bpe", "word")
TOKENIZERS = {kind: train_tokenizer(TokenizerConfig(kind, 600), TEXTS) for kind in KINDS}


def expected(tokenizer, texts):
    end = [tokenizer.end_of_document]
    encoded = [tokenizer.encode(text).tolist() for text in texts]
    return end + [token for ids in encoded for token in ids + end]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_cuts_of_long_texts_change_no_token(kind, monkeypatch):
    tokenizer = TOKENIZERS[kind]
    texts = [*TEXTS, " ".join(TEXTS)]
    monkeypatch.setattr(token_stream, "_BATCH", 1000)
    monkeypatch.setattr(token_stream, "_LONGEST_PIECE", 2000)
    found = tokenize(tokenizer, texts)
    assert found.tokens.tolist() == expected(tokenizer, texts)
    assert found.tokens.dtype == np.uint16
    ends = np.flatnonzero(found.tokens == tokenizer.end_of_document)
    np.testing.assert_array_equal(found.starts, ends)
    assert found.characters.tolist() == [len(text) for text in texts]
    assert found.bytes.tolist() == [len(text.encode()) for text in texts]
    assert found.words.tolist() == [len(text.split()) for text in texts]


@pytest.mark.parametrize("text", ["x" * 50, "ab\n" * 20, "  " * 30, "a b" * 20])
def test_a_long_text_is_cut_before_a_space_or_where_it_can(text, monkeypatch):
    monkeypatch.setattr(token_stream, "_LONGEST_PIECE", 8)
    pieces = [piece for batch in token_stream.batches_of([text]) for piece in batch]
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(len(piece.text) for piece in pieces) <= 8
    if " b" in text:
        assert all(piece.text.startswith(" ") for piece in pieces[1:])


def test_several_processes_make_the_same_tokens_and_one_that_is_killed_is_replaced(monkeypatch):
    tokenizer = TOKENIZERS["bpe"]
    monkeypatch.setattr(token_stream, "_BATCH", 2000)
    monkeypatch.setattr(token_stream, "_FEW", 2000)
    monkeypatch.setattr(token_stream, "_cores", lambda: 2)
    start = token_stream._Worker._start
    started = []

    def start_and_kill_the_first(worker):
        process = start(worker)
        if not started:
            os.kill(process.pid, signal.SIGKILL)
        started.append(process.pid)
        return process

    monkeypatch.setattr(token_stream._Worker, "_start", start_and_kill_the_first)
    assert tokenize(tokenizer, TEXTS).tokens.tolist() == expected(tokenizer, TEXTS)
    assert len(started) == 3
    with pytest.raises(UserError, match="lone surrogate"):
        tokenize(tokenizer, [*TEXTS, "\ud800"])


def test_a_spool_is_a_sequence_of_its_texts(tmp_path):
    texts = ["a", "", "日本語\n", "lone \ud800 surrogate", "z"]
    spool = spooled(texts, tmp_path / "new")
    assert list(spool) == texts and spool[-1] == "z" and list(spool[1:3]) == texts[1:3]
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]  # the file has no name
    assert list(Selected(spool, [2, 0])[:1]) == ["日本語\n"]
    with pytest.raises(IndexError):
        spool[5]
    assert list(Spool()) == [] and list(spooled([""], None)) == [""]
