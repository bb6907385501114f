"""JSONL, CSV and compressed files are read as what they are, and refused by line."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pytest

from lm_jax.data import DataConfig, LabelledTextConfig, ParallelTextConfig
from lm_jax.data.classification import labelled_text
from lm_jax.data.readers import read_files
from lm_jax.data.seq2seq import readers as pair_readers
from lm_jax.errors import UserError
from lm_jax.runs.translate import columns_of, read_sources

TEXTS = [f'text {n}: "quoted", with commas,\nand a second line\u2028' for n in range(40)]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows, **dialect):
    out = io.StringIO(newline="")
    csv.writer(out, **dialect).writerows(rows)
    return out.getvalue()


def texts(path, **fields):
    return read_files(DataConfig(source="files", path=str(path), **fields))


LINES = jsonl({"id": n, "text": text, "meta": {}} for n, text in enumerate(TEXTS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl", "\ufeff" + LINES.replace("\n", "\r\n\r\n")),
        ("a.txt", LINES),  # by its content
        ("a.csv", table([("n", "text"), *enumerate(TEXTS)])),
        ("a.csv", table([("text", "n"), *((text, "") for text in TEXTS)], delimiter=";")),
    ],
)
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_the_text_of_each_record_is_a_document(tmp_path, name, content, suffix, pack):
    (tmp_path / f"{name}{suffix}").write_bytes(pack(content.encode()))
    found = texts(tmp_path)
    assert list(found.train) == TEXTS
    assert found.description == {"files": 1, "records": 40}


def test_a_record_is_named_by_its_line_and_its_field_can_be_chosen(tmp_path):
    (tmp_path / "b.csv").write_text(table([("body", "n"), ("two\nlines", 1), ("one", 2)]))
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n\n{"body": "y"}\n')
    found = texts(tmp_path, text_feature="body")
    assert list(found.train) == ["x", "y", "two\nlines", "one"]
    assert list(found.names) == ["a.jsonl:1", "a.jsonl:3", "b.csv:2", "b.csv:4"]


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.txt.gz"])
def test_text_that_holds_braces_or_commas_stays_text(tmp_path, name):
    content = '{"a": 1}\n{"a": 2}\ntext, and more\n'
    (tmp_path / name).write_bytes(gzip.compress(content.encode(), mtime=0))
    assert list(texts(tmp_path).train) == [content]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "cut', r"a\.jsonl:2: .* it is no JSON object"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"body": "b"}',
            r"a\.jsonl:2: .* it has body and no text; name",
        ),
        ("a.jsonl", '["text"]', r"a\.jsonl:1: .*is not {\"text\": ...}: it is no JSON object"),
        ("a.jsonl", '{"text": null}', r"a\.jsonl:1: text is null; expected a text"),
        (
            "a.csv",
            "width,loss\n1,2\n",
            r"names the columns width, loss; expected text .*text_feature",
        ),
        ("a.csv", "text,n\na,1\nb,c,2\n", r"a\.csv:3: 3 columns, but the header names 2"),
        ("a.csv", 'text,n\n"a,1\n', r"a\.csv:2: unexpected end of data"),
        ("a.csv", "", "names the columns nothing"),
    ],
)
def test_records_without_text_are_refused_by_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        texts(tmp_path)


LABELLED = [(("neg", "pos")[n % 2], text) for n, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", table([("label", "text"), *LABELLED], quoting=csv.QUOTE_ALL)),
        ("a.txt", table([("text", "label"), *((t, a) for a, t in LABELLED)])),
        ("a.txt", jsonl({"label": a, "text": t} for a, t in LABELLED)),
    ],
)
def test_labelled_texts_keep_their_quotes_and_commas(tmp_path, name, content):
    (tmp_path / name).write_text(content, newline="")
    found = labelled_text.read_files(LabelledTextConfig(path=str(tmp_path)))
    assert list(found.train) == [(text.strip(), label) for label, text in LABELLED]


def test_a_header_names_the_columns_of_tabs(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\nhe said "no\tneg\n')
    found = labelled_text.read_files(LabelledTextConfig(path=str(tmp_path)))
    assert list(found.train) == [('he said "no', "neg")]


def test_rows_without_a_label_are_refused_by_line(tmp_path):
    (tmp_path / "a.csv").write_text("label,text\npos,fine\n ,a text\n")
    with pytest.raises(UserError, match=r"a\.csv:3: label is ' '; expected a text"):
        labelled_text.read_files(LabelledTextConfig(path=str(tmp_path)))


def test_pairs_and_sources_to_translate_are_read_from_csv(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('source,target,document\n"one, two",eins,d\nthree,drei,e\n')
    found = pair_readers.read_files(ParallelTextConfig(path=str(path)))
    assert [tuple(pair[:4]) for pair in found.train] == [
        ("one, two", "eins", "d", f"{path}:2"),
        ("three", "drei", "e", f"{path}:3"),
    ]
    assert read_sources(path) == (["one, two", "three"], ["eins", "drei"])
    (tmp_path / "sources.jsonl").write_text('{"source": "one"}\n')
    assert read_sources(tmp_path / "sources.jsonl") == (["one"], [])
    with pytest.raises(UserError, match="--input=a b: no such file; .* --input=- and the source"):
        read_sources("a b")
    assert columns_of("a b\nc\n", "the standard input") == (["a b", "c"], [])
    with pytest.raises(UserError, match="^the standard input:2: expected a source"):
        columns_of("a b\n\nc", "the standard input")
