"""Tokenizing as the last step: files that are read as they were written, and can be repeated."""

import gzip
import hashlib
import json
import random

import numpy as np
import pytest

from lm_jax.data import DataConfig, TokenizerConfig, prepare_tokens
from lm_jax.data.cleaning import uniform
from lm_jax.data.documents import texts_of
from lm_jax.data.preparation.config import PreparationConfig
from lm_jax.data.preparation.prepare import prepare
from lm_jax.data.preparation.tokens import WriteTokens
from lm_jax.data.token_files import llm_c_header, open_token_files
from lm_jax.errors import UserError
from lm_jax.reports.preparation_page import write_page
from tests.data.preparation.corpora import JAPANESE, prose, write_jsonl

RNG = random.Random(3)
TEXTS = [prose(RNG, 5) for _ in range(40)] + [JAPANESE]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> PreparationConfig:
    path = write_jsonl(tmp_path_factory.mktemp("raw") / "raw.jsonl", TEXTS)
    return PreparationConfig(
        path=str(path), stages="", tasks=3, tokenizer="byte", validation_fraction=0.2
    )


@pytest.fixture(scope="module")
def prepared(config, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared") / "corpus"
    return output, prepare(config, output, 1, write_page)


def test_every_document_is_on_the_side_of_its_hash_once(prepared):
    output, manifest = prepared
    found = {}
    for side in ("train", "validation"):
        files = open_token_files(str(output / "tokens" / side), end_of_document=256, vocab_size=257)
        found[side] = []
        for file in files:
            for first, last in zip(file.document_starts, file.document_starts[1:], strict=False):
                assert file.tokens[first] == 256
                found[side].append(bytes(file.tokens[first + 1 : last].tolist()).decode())
        assert manifest["tokens"]["total"][side] == {
            "documents": len(found[side]),
            "tokens": sum(len(text.encode()) + 1 for text in found[side]),
            "characters": sum(map(len, found[side])),
            "bytes": sum(len(text.encode()) for text in found[side]),
            "words": sum(len(text.split()) for text in found[side]),
        }
    assert sorted(found["train"]) == sorted(text for text in TEXTS if uniform(text) >= 0.2)
    assert sorted(found["validation"]) == sorted(text for text in TEXTS if uniform(text) < 0.2)


def test_the_manifest_has_the_digest_of_each_token_file(prepared):
    output, manifest = prepared
    digests = {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (output / "tokens").glob("*/*.bin")
    }
    files = manifest["tokens"]["files"]
    assert {file["name"]: file["sha256"] for file in files} == digests
    assert manifest["tokens"]["tokenizer"]["vocab_size"] == 257
    assert not list(output.rglob("*.partial"))


def test_a_run_reads_the_tokens_with_their_tokenizer(prepared, tmp_path):
    tokens = prepared[0] / "tokens"
    corpus = prepare_tokens(
        DataConfig(
            source="tokens",
            path=str(tokens / "train"),
            validation_path=str(tokens / "validation"),
            tokenizer=TokenizerConfig(path=str(tokens)),
            cache_directory=str(tmp_path),
        )
    )
    held_out = [text for text in TEXTS if uniform(text) < 0.2]
    assert sorted(texts_of(corpus.tokenizer, corpus.validation)) == sorted(held_out)
    assert corpus.validation.characters.sum() == sum(map(len, held_out))
    assert len(corpus.train.starts) - 1 == len(TEXTS) - len(held_out)
    assert np.all(corpus.train.tokens[corpus.train.starts] == 256)


def test_a_task_that_wrote_its_tokens_does_not_run_again(prepared, config, tmp_path, monkeypatch):
    run, ranks = WriteTokens.run, []

    def failing(self, data=None, rank=0, world_size=1):
        ranks.append(rank)
        if len(ranks) == 2:
            raise KeyboardInterrupt
        run(self, data, rank, world_size)

    monkeypatch.setattr(WriteTokens, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(config, tmp_path / "corpus", 1, write_page)
    assert prepare(config, tmp_path / "corpus", 1, write_page) == prepared[1]
    assert ranks == [0, 1, 1, 2]


def test_without_a_tokenizer_the_corpus_is_as_before(config, tmp_path):
    path = write_jsonl(tmp_path / "raw.jsonl", TEXTS[:3])
    plain = PreparationConfig(path=str(path), stages="", tasks=1)
    manifest = prepare(plain, tmp_path / "corpus", 1, write_page)
    assert not (tmp_path / "corpus" / "tokens").exists()
    assert "tokens" not in manifest and "tokenizer" not in manifest["configuration"]
    (file,) = (tmp_path / "corpus" / "documents").iterdir()
    assert [json.loads(line)["text"] for line in gzip.open(file, "rt")] == TEXTS[:3]
    plain.tokenizer = "byte"
    with pytest.raises(UserError, match="another configuration .tokenizer, validation_fraction d"):
        prepare(plain, tmp_path / "corpus", 1, write_page)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": "pbe"}, "the tokenizer 'pbe' is 'pbe'; expected one of byte, char"),
        ({"tokenizer": "huggingface:none"}, "none"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0; expected"),
    ],
)
def test_a_tokenizer_that_cannot_be_had_is_refused_before_anything_is_written(
    config, tmp_path, fields, message
):
    with pytest.raises(UserError, match=message):
        prepare(PreparationConfig(**{**vars(config), **fields}), tmp_path / "c", 1, write_page)
    assert not list(tmp_path.iterdir())


def test_a_header_fits_its_format_or_is_refused():
    assert np.frombuffer(llm_c_header(7, 2), "<i4")[:4].tolist() == [20240520, 1, 7, 0]
    assert np.frombuffer(llm_c_header(7, 4), "<i4")[:3].tolist() == [20240801, 7, 7]
    assert len(llm_c_header(7, 2)) == 1024
    with pytest.raises(UserError, match="more --config.tasks"):
        llm_c_header(2**31, 2)
