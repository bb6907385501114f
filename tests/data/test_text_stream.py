"""Texts are read as a stream, in bounded memory, and what is damaged is refused in one line."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import sys
import tracemalloc
from collections import Counter
from functools import partial

import pytest
import zstandard

from lm_jax.data import DataConfig, TokenizerConfig, content, prepare
from lm_jax.data.content import HEAD, lines_of, open_content
from lm_jax.data.files import SourceFile, find_files, find_sources
from lm_jax.data.readers import read_files
from lm_jax.data.text_stream import Counts, stream_texts
from lm_jax.errors import UserError
from tests.data.formats.refused import refused

PACK = {
    "gz": partial(gzip.compress, compresslevel=1),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_a_mixed_folder_is_read_in_the_order_of_its_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(b"a\r\nwhole file\n")
    (tmp_path / "b" / "c.jsonl.gz").write_bytes(gzip.compress(lines(["one", "two"])))
    (tmp_path / "b" / "d.tsv").write_text('id\ttext\n1\the said "no\n')
    (tmp_path / "e.csv.zst").write_bytes(PACK["zst"](b'text\n"x,\ny"\n'))
    counts = Counts()
    assert list(stream_texts(str(tmp_path), counts=counts)) == [
        ("a\r\nwhole file\n", "a.txt"),
        ("one", "b/c.jsonl.gz:1"),
        ("two", "b/c.jsonl.gz:2"),
        ('he said "no', "b/d.tsv:2"),
        ("x,\ny", "e.csv.zst:2"),
    ]
    assert counts.description() == {"files": 4, "records": 4}
    names = [source.path for source in find_sources(str(tmp_path))]
    assert names == [str(path) for path in find_files(str(tmp_path))]


def test_a_tsv_without_the_field_stays_one_text(tmp_path):
    (tmp_path / "a.tsv").write_text("one\ttwo\n")
    assert [text for text, _ in stream_texts(str(tmp_path))] == ["one\ttwo\n"]


@pytest.mark.parametrize("suffix", ["", "gz", "zst"])
def test_records_are_held_one_at_a_time(tmp_path, suffix):
    content = lines(os.urandom(1_000).hex() for _ in range(4_000))  # 8 MB
    (tmp_path / f"a.jsonl.{suffix}".rstrip(".")).write_bytes(PACK.get(suffix, bytes)(content))
    stream = stream_texts(str(tmp_path))
    next(stream)
    tracemalloc.start()
    assert sum(len(text) for text, _ in stream) == 3_999 * 2_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * HEAD


def test_a_record_may_be_longer_than_what_is_read_at_a_time(tmp_path):
    long = "ä" * (2 * HEAD)
    (tmp_path / "a.jsonl").write_bytes(lines([long, "short"]))
    (tmp_path / "b.csv").write_text(f"text\n{long}\nshort\n")
    assert [text for text, _ in stream_texts(str(tmp_path))] == [long, "short"] * 2


def test_objects_are_recognised_where_the_second_is_longer_than_what_is_looked_at(tmp_path):
    (tmp_path / "a.json").write_bytes(lines(["x" * 700_000] * 2))
    assert [len(text) for text, _ in stream_texts(str(tmp_path))] == [700_000] * 2


ENDS = [b"\n", b"\r\n", b"\r", b"\n\r", b"\r\r\n"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("at_last", [b"", b"\r", b"\n"])
def test_lines_end_as_everywhere(tmp_path, end, at_last):
    content = end.join([b'{"text": "a"}', b'{"text": "b"}']) + at_last
    (tmp_path / "a.jsonl").write_bytes(content)
    expected = [number for number, line in enumerate(lines_of(content.decode()), 1) if line]
    assert list(stream_texts(str(tmp_path))) == [
        (text, f"a.jsonl:{number}") for text, number in zip("ab", expected, strict=True)
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_are_numbered_as_the_csv_module_reads_the_whole_text(tmp_path, end):
    content = end.join(["text,n", f'"a{end}b",1', "c,2"])
    (tmp_path / "a.csv").write_text(content, newline="")
    reader = csv.reader(io.StringIO(content, newline=""))
    expected, before = [], 0
    for row in reader:
        expected, before = [*expected, (row[0], f"a.csv:{before + 1}")], reader.line_num
    assert list(stream_texts(str(tmp_path))) == expected[1:]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_packed_file_that_is_cut_off_is_refused(tmp_path, suffix, kept):
    content = lines(os.urandom(40).hex() for _ in range(1_500))
    packed = PACK[suffix](content)
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(packed[: int(len(packed) * kept)])
    message = refused(tmp_path)
    assert f"a.jsonl.{suffix} begins as " in message and "damaged or cut off" in message


@pytest.mark.parametrize("suffix", PACK)
def test_a_line_that_unpacks_to_more_than_memory_holds_is_refused(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(content, "host_memory", lambda: 8e6)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(PACK[suffix](lines(["a" * 1_900_000, "b"])))
    assert [len(text) for text, _ in stream_texts(str(path))] == [1_900_000, 1]
    path.write_bytes(PACK[suffix](lines(["a", "b" * 3_000_000])))
    assert "unpacks to more than 0.002 GB, a quarter of the memory; split it" in refused(path)


def test_a_dictionary_for_which_there_is_no_memory_is_one_line(tmp_path, monkeypatch):
    def fails(*_):
        raise MemoryError

    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"text"))
    monkeypatch.setattr(lzma.LZMAFile, "readinto", fails)
    assert "begins as xz does, but cannot be unpacked (MemoryError)" in refused(tmp_path)


def test_a_packed_file_may_hold_several_parts(tmp_path):
    for suffix, pack in PACK.items():
        parts = [pack(lines([text])) for text in ("one", "two")]
        (tmp_path / f"{suffix}.jsonl").write_bytes(parts[0] + parts[1])  # whatever its name
    assert [text for text, _ in stream_texts(str(tmp_path))] == ["one", "two"] * len(PACK)


def test_zstd_without_its_package_is_refused_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(PACK["zst"](b"text"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert "a.txt.zst is zstd, which needs zstandard: pip install -e '.[data]'" in refused(tmp_path)


BAD = "größe".encode("latin-1")  # bytes 0xf6 and 0xdf at 2 and 3 are not UTF-8
FAR = lines(["x" * 9_000]) * 150  # more than what is read at a time
CASES = {  # name -> content, offset of the first bad byte, text where it is replaced
    "a.txt": (
        BAD + "\ufffd".encode(),
        2,
        "gr\ufffd\ufffde\ufffd",
    ),  # the last one is the text's own
    "a.jsonl": (FAR + b'{"text": "' + BAD + b'"}\n' + FAR, len(FAR) + 12, "gr\ufffd\ufffde"),
    "a.csv": (b'text,n\nx,1\n"one\n' + BAD + b'",2\ny,3\n', 18, "one\ngr\ufffd\ufffde"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("suffix", ["", "gz"])
def test_bytes_that_are_not_utf8_are_refused_replaced_or_skipped(tmp_path, name, suffix):
    content, offset, replaced = CASES[name]
    pack = PACK.get(suffix, bytes)
    (tmp_path / f"{name}.{suffix}".rstrip(".")).write_bytes(pack(content))
    (tmp_path / "b.txt").write_text("good")
    message = refused(tmp_path)
    assert f"is not UTF-8: byte 0xf6 at offset {offset}; convert it" in message
    assert message.endswith("set data.invalid_utf8 to replace or skip")
    assert not refused(tmp_path, origin="--text").endswith("skip")  # which has no such field
    config = DataConfig(source="files", path=str(tmp_path), invalid_utf8="replace")
    found = read_files(config)
    whole = found.train
    assert whole.count(replaced) == 1 and whole[-1] == "good"
    assert found.description["left_out"] == {"bytes that are not UTF-8, replaced by U+FFFD": 2}
    config.invalid_utf8 = "skip"
    found = read_files(config)
    assert list(found.train) == [text for text in whole if text != replaced]
    assert found.description["left_out"] == {"documents that are not UTF-8": 1}


def test_what_held_out_files_leave_out_is_counted_with_the_rest(tmp_path):
    for name in ("train", "held", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
        (tmp_path / name / "b.txt").write_bytes(BAD)
    held, test = (str(tmp_path / name) for name in ("held", "test"))
    config = DataConfig("files", str(tmp_path / "train"), validation_path=held, test_path=test)
    config.invalid_utf8 = "skip"
    found = read_files(config)
    assert [[*found.train], [*found.validation], [*found.test]] == [["train"], ["held"], ["test"]]
    assert found.description["left_out"] == {"documents that are not UTF-8": 3}


def test_half_of_a_surrogate_pair_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        r'{"text": "a\ud800b"}{}'[:-2] + "\n" + r'{"text": "\ud83d\ude00"}'
    )
    assert "a.jsonl:1: the text holds half of a surrogate pair (\\ud800)" in refused(tmp_path)
    replaced = [text for text, _ in stream_texts(str(tmp_path), on_bad_text="replace")]
    assert replaced == ["a\ufffdb", "\U0001f600"]
    assert [text for text, _ in stream_texts(str(tmp_path), on_bad_text="skip")] == ["\U0001f600"]


def test_what_becomes_of_bad_bytes_changes_no_key_and_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("good words " * 40)
    config = DataConfig("files", str(tmp_path), split="tail", tokenizer=TokenizerConfig("byte"))
    before = prepare(config).description
    (tmp_path / "b.txt").write_bytes(BAD)
    config.invalid_utf8 = "skip"
    after = prepare(config).description
    assert after["fingerprint"] == before["fingerprint"]
    assert "; not read: 1 document that is not UTF-8" in after["summary"]
    config.invalid_utf8 = "guess"
    with pytest.raises(UserError, match="data.invalid_utf8 is 'guess'; expected one of refuse,"):
        config.validate()
    with pytest.raises(UserError, match="data.invalid_utf8 'skip' has no effect on data.source=st"):
        DataConfig("stdlib", invalid_utf8="skip").validate()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.gz", gzip.compress(b"text " * 99, mtime=0)[:-9]),
        ("latin.txt", b"caf\xe9"),
        ("latin.jsonl", b'{"text": "caf\xe9"}\n'),
        ("nul.txt", b"a\0b"),
        ("page.pdf", b"%PDF-1"),
        ("cut.parquet", b"PAR1 and no more PAR1"),
        ("cut.warc", b"WARC/1.0\r\nContent-Length: 9\r\n\r\n1"),
    ],
)
@pytest.mark.parametrize("given_by", ["--text", "data.test_path"])
def test_what_cannot_be_read_is_refused_by_its_file_and_what_gave_it(
    tmp_path, name, content, given_by
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"leave it out of {given_by}") as error:
        list(stream_texts(str(tmp_path), origin=given_by))
    assert str(error.value).startswith(str(path)) and "data.path" not in str(error.value)


def test_a_nul_byte_far_into_a_file_is_found(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(FAR + b'{"text": "\0"}')
    assert f"holds a NUL byte at offset {len(FAR) + 10}" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"\x04\x22\x4d\x18x", "an lz4 file"), (b"a" * 257 + b"ustar\0", "a tar archive")],
)
def test_archives_are_named(tmp_path, content, named):
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    assert f"a.gz is {named}, not UTF-8 text; unpack it" in refused(tmp_path)


def test_a_file_that_disappears_is_said_in_one_line(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    stream = stream_texts(str(tmp_path))
    next(stream)
    (tmp_path / "b").unlink()
    with pytest.raises(UserError, match=r"b cannot be read \(.*No such file.*\); restore it") as e:
        next(stream)
    assert "\n" not in str(e.value)


class Failing(io.BytesIO):
    def readinto(self, buffer):
        if self.tell() >= HEAD:
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)


@pytest.mark.parametrize("suffix", ["", "gz"])
def test_a_source_that_fails_half_way_is_not_taken_for_damaged(suffix):
    content = PACK.get(suffix, bytes)(os.urandom(3 * HEAD))
    with pytest.raises(UserError, match=r"^far/a cannot be read \(.*Input/output error\)"):
        with open_content(SourceFile("far/a", "a", lambda: Failing(content))) as opened:
            while opened.stream.read(HEAD):
                pass


def test_empty_files_hold_blank_documents_or_no_records(tmp_path):
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b""))
    assert list(stream_texts(str(tmp_path))) == [("", "a.txt"), ("", "c.txt.gz")]


def test_a_directory_without_files_is_refused(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    assert "is a folder without files" in refused(tmp_path)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_document_and_every_fault_is_in_one_part(tmp_path, parts):
    one = lines(["a", "b", "c"])
    broken = b'{"text": "\xff"}\n'
    (tmp_path / "a.jsonl").write_bytes(
        b"\xef\xbb\xbf" + one + b"\n" + broken + one.replace(b"\n", b"\r") + b"\n" + one + broken
    )
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(one))
    (tmp_path / "c.csv").write_bytes(b'text\nx\n"y\nz"\n\xff\nlast\n')
    (tmp_path / "d.txt").write_text("whole")
    (tmp_path / "e.txt").write_bytes(b"\xff")

    def read(part, parts):
        counts = Counts()
        found = list(stream_texts(str(tmp_path), "", "skip", counts=counts, part=part, parts=parts))
        return found, Counter(counts.left_out)

    whole, left_out = read(0, 1)
    assert len(whole) == 9 + 3 + 3 + 1 and left_out.total() == 4
    found = [read(part, parts) for part in range(parts)]
    assert sorted(text for texts, _ in found for text in texts) == sorted(whole)
    assert sum((faults for _, faults in found), Counter()) == left_out


def test_the_lines_of_other_parts_are_not_parsed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["a"]) + b"{broken\n" + lines(["c"]))
    assert [text for text, _ in stream_texts(str(path), part=0, parts=2)] == ["a", "c"]
    with pytest.raises(UserError, match="a.jsonl:2: .*it is no JSON object"):
        list(stream_texts(str(path), part=1, parts=2))
