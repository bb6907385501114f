import gzip
import inspect
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lm_jax.data import DataConfig, TokenizerConfig, prepare, texts_of
from lm_jax.data.cleaning import (
    drop_repeated_paragraphs,
    held_out_by_hash,
    overlap,
    split_by_document,
    uniform,
)
from lm_jax.data.embedded import python_reference, standard_library
from lm_jax.errors import UserError


def files(path, **fields) -> DataConfig:
    return DataConfig(source="files", path=str(path), tokenizer=TokenizerConfig("byte"), **fields)


def test_the_embedded_corpus_is_split_by_document_with_little_overlap():
    corpus = prepare(DataConfig(tokenizer=TokenizerConfig("byte")))
    train = texts_of(corpus.tokenizer, corpus.train)
    validation = texts_of(corpus.tokenizer, corpus.validation)
    kept, dropped = drop_repeated_paragraphs(python_reference())
    assert sorted(train + validation) == sorted(filter(None, kept))
    assert dropped == corpus.description["repeated_paragraphs_dropped"] > 100
    assert corpus.description["overlap_of_long_lines"] < 0.02
    without_cleaning = overlap(*split_by_document(python_reference(), 0.1)[:2])
    assert without_cleaning > 5 * corpus.description["overlap_of_long_lines"]


def test_the_standard_library_is_all_of_python_and_nothing_installed():
    texts = standard_library()
    assert inspect.getsource(json) in texts
    assert sum(map(len, texts)) > 5_000_000
    assert inspect.getsource(pytest) not in texts
    with pytest.raises(UserError, match="no effect on data.source=stdlib"):
        DataConfig(source="stdlib", path="x.py").validate()


def test_a_second_preparation_reads_the_cache(monkeypatch):
    config = DataConfig(tokenizer=TokenizerConfig("bpe", 700))
    first = prepare(config)
    monkeypatch.setattr("lm_jax.data.pipeline.train_tokenizer", None)
    second = prepare(config)
    assert first.description == second.description
    np.testing.assert_array_equal(first.train.tokens, second.train.tokens)


@pytest.mark.parametrize("name", ["train_tokens.npy", "description.json", "tokenizer"])
def test_a_cache_in_pieces_is_made_anew(name, tmp_path):
    config = DataConfig(cache_directory=str(tmp_path), tokenizer=TokenizerConfig("bpe", 700))
    whole = prepare(config)
    damaged = tmp_path / whole.description["fingerprint"] / name
    if damaged.is_dir():
        damaged /= "sentencepiece.model"
    beginning = damaged.read_bytes()[:200]
    damaged.unlink()  # `whole` still maps the file
    damaged.write_bytes(beginning)
    again = prepare(config)
    np.testing.assert_array_equal(whole.train.tokens, again.train.tokens)
    assert again.description == whole.description


def test_two_processes_may_prepare_the_same_corpus_at_once(tmp_path, monkeypatch):
    rename = os.replace

    def rename_second(partial, place):
        if Path(partial).is_dir():
            shutil.copytree(partial, place)  # what the first process has just put there
        rename(partial, place)

    monkeypatch.setattr("lm_jax.data.cache.os.replace", rename_second)
    config = DataConfig(cache_directory=str(tmp_path), tokenizer=TokenizerConfig("byte"))
    corpus = prepare(config)
    assert [path.name for path in tmp_path.iterdir()] == [corpus.description["fingerprint"]]


def test_equal_files_share_a_cache_and_keep_their_own_names(tmp_path):
    for name in ("a.txt", "b[1].txt"):  # the brackets are part of the name
        (tmp_path / name).write_text("the same text\n" * 40)
    one, other = (
        prepare(files(tmp_path / name, split="tail", drop_repeated_paragraphs=False))
        for name in ("a.txt", "b[1].txt")
    )
    assert one.description["fingerprint"] == other.description["fingerprint"]
    assert other.description["path"] == str(tmp_path / "b[1].txt")


def test_the_tokenizer_never_sees_the_validation_text(tmp_path):
    (tmp_path / "text.txt").write_text("plain letters " * 90 + "Ω" * 20, encoding="utf-8")
    config = files(tmp_path, split="tail", validation_fraction=0.1)
    config.tokenizer = TokenizerConfig("char", 1000)
    corpus = prepare(config)
    assert "Ω" in texts_of(corpus.tokenizer, corpus.validation)[0]
    assert len(corpus.tokenizer.encode("Ω")) == len("Ω".encode())  # spelled in bytes


def test_held_out_texts_may_be_files_beside_the_training_files(tmp_path):
    for name, text in {"train": "one two", "held": "three\n\nfour", "other": "five"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    found = prepare(files(tmp_path / "train.txt", validation_path=str(tmp_path / "held.txt")))
    assert texts_of(found.tokenizer, found.train) == ["one two"]
    assert texts_of(found.tokenizer, found.validation) == ["three\n\nfour"]
    other = prepare(files(tmp_path / "train.txt", validation_path=str(tmp_path / "other.txt")))
    fingerprints = {each.description["fingerprint"] for each in (found, other)}
    assert len(fingerprints) == 2
    with pytest.raises(ValueError, match="no file matches data.validation_path"):
        prepare(files(tmp_path / "train.txt", validation_path=str(tmp_path / "missing.txt")))
    with pytest.raises(ValueError, match="has no effect on data.source=stdlib"):
        DataConfig(source="stdlib", validation_path="held.txt").validate()


def test_the_tail_split_cuts_at_the_fraction_and_keeps_every_character(tmp_path):
    text = "line of text\r\n\tand another \u2581\n" * 40
    (tmp_path / "a.txt").write_bytes(text.encode())
    corpus = prepare(files(tmp_path / "a.txt", split="tail", drop_repeated_paragraphs=False))
    (train,) = texts_of(corpus.tokenizer, corpus.train)
    (validation,) = texts_of(corpus.tokenizer, corpus.validation)
    assert train + validation == text
    assert len(train) == int(len(text) * 0.9)


def test_a_document_stays_on_its_side_when_others_join():
    texts = [f"document {i}" for i in range(300)]
    train, validation, trained, held_out = split_by_document(texts, 0.1)
    assert list(train) == [texts[number] for number in trained]
    assert list(validation) == [texts[number] for number in held_out]
    more_train, more_validation, *_ = split_by_document(texts + ["one more"], 0.1)
    assert set(train) <= set(more_train) and set(validation) <= set(more_validation)
    assert 10 < len(validation) < 60


def _keys(count, low, high):
    """Different keys whose hashes lie between two bounds."""
    found = (f"key {n}" for n in range(1_000_000))
    return [next(key for key in found if low <= uniform(key) < high) for _ in range(count)]


def test_a_few_documents_are_held_out_in_the_order_of_their_hashes():
    train = _keys(12, 0.2, 1)
    expected = [key == min(train, key=uniform) for key in train]
    assert held_out_by_hash(train, 0.1) == expected
    assert held_out_by_hash([*train, *train], 0.1) == expected * 2  # equal ones stay together
    by_hash = sorted(train, key=uniform)
    assert held_out_by_hash(by_hash, 0.18) == [True] * 2 + [False] * 10  # round(12 x 0.18) = 2
    low = _keys(3, 0, 0.6)
    assert held_out_by_hash(sorted(low, key=uniform), 0.9) == [True, True, False]
    assert held_out_by_hash(["alone"], 0.1) == [uniform("alone") < 0.1]


def test_hashes_below_the_fraction_decide_alone_where_they_leave_both_sides_some():
    low, high = _keys(1, 0, 0.1), _keys(30, 0.1, 1)  # one of 31: less than the fraction
    assert held_out_by_hash(high + low, 0.1) == [False] * 30 + [True]


def test_the_description_says_which_of_a_few_documents_are_held_out(tmp_path):
    (tmp_path / "inside").mkdir()
    texts = _keys(4, 0.2, 0.8)
    for number, text in enumerate(sorted(texts, key=uniform)):
        (tmp_path / ("inside" if number == 0 else "") / f"{number}.txt").write_text(text)
    found = prepare(files(tmp_path))
    assert texts_of(found.tokenizer, found.validation) == [min(texts, key=uniform)]
    assert found.description["held_out_documents"] == ["inside/0.txt"]
    assert "held out: inside/0.txt" in found.description["summary"]
    (tmp_path / "inside").rename(tmp_path / "under")  # equal documents, so the cache is used
    for name in sorted(path.name for path in tmp_path.glob("*.txt")):
        (tmp_path / name).rename(tmp_path / f"z{name}")
    again = prepare(files(tmp_path)).description
    assert again["fingerprint"] == prepare(files(tmp_path)).description["fingerprint"]
    assert again["held_out_documents"] == ["under/0.txt"]


def test_documents_that_vanish_are_counted_with_the_reason_and_the_field_that_keeps_them(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(f"text {number}\n\nthe same\n\nin all")
    for name in ("40.txt", "41.txt", "42.txt", "43.txt"):
        (tmp_path / name).write_text("in all\n\nthe same")
    (tmp_path / "blank.txt").write_text(" \n")
    found = prepare(files(tmp_path))
    assert found.description["left_out"] == {"blank documents": 1}
    assert found.description["repeated_documents_dropped"] == 4
    assert found.description["repeated_documents"] == ["40.txt", "41.txt", "42.txt"]
    sizes = [found.description[split]["documents"] for split in ("train", "validation")]
    assert sum(sizes) == 30
    said = found.description["summary"]
    assert "4 documents that hold nothing else (40.txt, 41.txt, 42.txt, ...); data.drop_rep" in said
    assert "not read: 1 blank document" in said
    kept = prepare(files(tmp_path, drop_repeated_paragraphs=False)).description
    assert kept["repeated_documents_dropped"] == 0 and "nothing else" not in kept["summary"]
    assert kept["train"]["documents"] + kept["validation"]["documents"] == 34


def test_a_cache_made_before_descriptions_said_more_is_made_again(tmp_path):
    (tmp_path / "a.txt").write_text("some words " * 40)
    config = files(tmp_path / "a.txt", split="tail", cache_directory=str(tmp_path / "cache"))
    first = prepare(config)
    path = tmp_path / "cache" / first.description["fingerprint"] / "description.json"
    path.write_text('{"summary": "as an earlier version wrote it"}')
    assert prepare(config).description == first.description


def test_repeated_paragraphs_keep_their_first():
    texts = ["a\n\nb\n\na", "b\n\nc", "a\n\nb"]
    kept, dropped = drop_repeated_paragraphs(texts)
    assert (list(kept), dropped) == (["a\n\nb", "c", ""], 4)
    kept, dropped = drop_repeated_paragraphs(texts, known=["c", "x\n\nb"])
    assert (list(kept), dropped) == (["a", "", ""], 6)


@pytest.mark.parametrize("blank", ["\n\n", "\r\n\r\n", "\n \t\n"])
def test_blank_lines_part_paragraphs_however_they_are_written(blank):
    texts = [f"a{blank}b{blank}c", f"b{blank}d"]
    kept, dropped = drop_repeated_paragraphs(texts)
    assert (list(kept), dropped) == ([texts[0], "d"], 1)


def test_overlap_counts_long_lines_only():
    long, other = "x" * 40, "y" * 40
    assert overlap([f"{long}\nshort"], [f"  {long}\n{other}\nshort"]) == 0.5


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no file matches data.path"):
        prepare(files(tmp_path / "missing*.txt"))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.txt").write_text("a text")
    with pytest.raises(UserError, match="is a folder without files; hidden files"):
        prepare(files(tmp_path))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match="is empty"):
        prepare(files(tmp_path))
    (tmp_path / "latin.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt is not UTF-8: byte 0xf6 at offset 2"):
        prepare(files(tmp_path))


def test_one_document_cannot_be_split_by_document(tmp_path):
    (tmp_path / "one.txt").write_text("only one document\n")
    with pytest.raises(UserError, match="set data.split=tail"):
        prepare(files(tmp_path))


def test_unknown_choices_are_refused():
    for config, message in (
        (DataConfig(source="web"), "data.source is 'web'"),
        (DataConfig(split="half"), "data.split is 'half'"),
        (DataConfig(source="files"), "needs data.path"),
        (DataConfig(path="x.txt"), "no effect on data.source=embedded"),
        (DataConfig(validation_fraction=1.5), "validation_fraction is 1.5"),
        (DataConfig(tokenizer=TokenizerConfig("words")), "tokenizer.kind is 'words'"),
    ):
        with pytest.raises(UserError, match=message):
            config.validate()


def test_an_unwritable_cache_leaves_nothing_behind(tmp_path):
    (tmp_path / "cache").write_text("a file where a directory should be")
    config = DataConfig(cache_directory=str(tmp_path / "cache" / "inside"))
    with pytest.raises(OSError):
        prepare(config)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"some text", mtime=0)[:-9], "begins as gzip does, but cannot be unpacked"),
        (gzip.compress(b"\x93\xff" * 9, mtime=0), "is not UTF-8: byte 0x93"),
        (b"PK\x03\x04..[Content_Types].xml", r"is an Office document \(docx.*save it as plain"),
        (b"PK\x03\x04..mimetypeapplication/vnd.oasis.opendocument.text", "OpenDocument"),
        (b"PK\x03\x04..mimetypeapplication/epub+zip", r"is an e-book \(epub\)"),
        (b"\xd0\xcf\x11\xe0 old", "is an old Office document"),
        (b"{\\rtf1 text}", "is RTF, not UTF-8 text; save it as plain text"),
        ("caf\xe9".encode("latin-1"), "iconv -f latin1 -t utf-8"),
        (b"PK\x03\x04 readable", "is a zip archive, not UTF-8 text; unpack it"),
        ("some text".encode("utf-16-le"), "holds a NUL byte at offset 1: .*iconv -f utf-16le"),
        ('[{"text": "one"}, {"text": "two"}]', "is one JSON array of objects; expected one object"),
        ("some text".encode("utf-16"), "is UTF-16, .*iconv -f utf-16"),
        (b"PAR1 and columns \xff", "is a parquet file"),
    ],
)
def test_a_format_that_is_recognised_is_named(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        prepare(files(tmp_path))
