"""Parquet, Arrow and saved data sets, as pyarrow and `datasets` write them."""

import gzip
import io
import json
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm_jax.data import LabelledTextConfig, ParallelTextConfig
from lm_jax.data.classification import labelled_text
from lm_jax.data.content import HEAD, open_content
from lm_jax.data.files import SourceFile
from lm_jax.data.formats import FORMATS, Request
from lm_jax.data.seq2seq import readers as pair_readers
from lm_jax.data.text_stream import Counts, stream_texts
from lm_jax.data.utf8 import Decoder
from lm_jax.errors import UserError
from tests.data.formats.refused import refused

TEXTS = [f"text {n} é\n" for n in range(700)]  # more than are turned into objects at a time


def table(texts=TEXTS, **columns):
    return pa.table({"id": list(range(len(texts))), "text": texts, **columns})


def write_stream(found, path, **options):
    with pa.ipc.new_stream(str(path), found.schema) as out:
        out.write_table(found, **options)


def write_file(found, path):
    with pa.ipc.new_file(str(path), found.schema) as out:
        out.write_table(found, max_chunksize=300)


WRITE = {
    "a.parquet": lambda found, path: pq.write_table(found, path, row_group_size=300),
    "a.arrow": lambda found, path: write_stream(found, path, max_chunksize=300),
    "a.feather": write_file,
}


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_each_row_is_a_document(tmp_path, name, kind):
    if (name, kind) == ("a.parquet", pa.string_view()):
        kind = pa.dictionary(pa.int32(), pa.string())
    WRITE[name](table(pa.array(TEXTS).cast(kind)), tmp_path / name)
    (tmp_path / name).rename(tmp_path / "b")  # recognised by its content, too
    WRITE[name](table(), tmp_path / name)
    counts = Counts()
    found = list(stream_texts(str(tmp_path), counts=counts))
    assert [text for text, _ in found] == TEXTS * 2
    assert found[699].name == f"{name}:700" and found[700].name == "b:1"
    assert counts.description() == {"files": 2, "records": 1400}


@pytest.mark.parametrize("name", WRITE)
def test_what_holds_no_such_texts_is_refused(tmp_path, name):
    WRITE[name](table([None, "x"]), tmp_path / name)
    path = tmp_path / name
    assert f"{name}:1: text is null; expected a text" in refused(path)
    assert f"{name}:1: id is 0; expected a text" in refused(path, "id")
    assert refused(path, "body").endswith(
        f"{name} has the columns id, text and no body; name the field of the text with "
        "data.text_feature, or leave the file out"
    )


@pytest.mark.parametrize("name", WRITE)
def test_a_table_that_is_cut_off_or_empty_is_refused(tmp_path, name):
    path = tmp_path / name
    WRITE[name](table(), path)
    whole = path.read_bytes()
    for kept in (0, 7, 90, len(whole) // 3, len(whole) - 9):
        path = tmp_path / name.replace("feather", "arrow")
        path.write_bytes(whole[:kept])
        message = refused(path)
        assert "that cannot be read (" in message and "damaged or cut off" in message


def test_text_that_is_not_utf8_is_treated_as_everywhere(tmp_path):
    bad = pa.array([b"good", b"gr\xf6\xdfe"]).view(pa.string())  # without a check, as in the wild
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    path = str(tmp_path)
    assert "a.parquet:2 is not UTF-8: byte 0xf6 at offset 2; write that text anew" in refused(path)
    for treatment, expected in (("replace", ["good", "gr\ufffd\ufffde"]), ("skip", ["good"])):
        counts = Counts()
        found = stream_texts(path, on_bad_text=treatment, counts=counts)
        assert [text for text, _ in found] == expected
        assert sum(counts.left_out.values()) == {"replace": 2, "skip": 1}[treatment]


def test_a_row_group_is_read_in_parts(tmp_path):
    rows = [f"{n:0>2000}" for n in range(8_000)]  # 16 MB in one row group
    pq.write_table(table(rows), tmp_path / "a.parquet", use_dictionary=False, compression="none")
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    largest = max(pa.total_allocated_bytes() for _ in stream_texts(str(tmp_path))) - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 5 * HEAD and peak < 5 * HEAD


class Failing(io.BytesIO):
    def readinto(self, buffer):
        if 2 * HEAD < self.tell() < len(self.getvalue()) - HEAD:
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)


def test_a_source_that_fails_half_way_is_not_taken_for_damaged():
    out, request = io.BytesIO(), Request(("text",), Decoder())
    rows = [f"{n:0>2000}" for n in range(4_000)]
    pq.write_table(table(rows), out, use_dictionary=False, compression="none")
    with open_content(SourceFile("far/a", "a", lambda: Failing(out.getvalue()))) as content:
        with pytest.raises(UserError, match=r"^far/a cannot be read \(.*Input/output error\)"):
            list(FORMATS["Parquet"].read(content, request))


def test_parquet_without_its_package_or_in_gzip_is_refused(tmp_path, monkeypatch):
    pq.write_table(table(), tmp_path / "a.parquet")
    packed = gzip.compress((tmp_path / "a.parquet").read_bytes(), 1)
    (tmp_path / "b.gz").write_bytes(packed)
    assert refused(tmp_path / "b.gz").endswith("b.gz is a parquet file in gzip; unpack it")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.delattr(pa, "parquet")
    assert "a.parquet is a parquet file, which needs pyarrow" in refused(tmp_path / "a.parquet")


def test_labelled_texts_and_pairs_may_be_tables(tmp_path):
    labelled = pa.table({"n": [1, 2], "text": ["bad film", "fine film"], "label": [0, 1]})
    pq.write_table(labelled, tmp_path / "labelled.parquet")
    found = labelled_text.read_files(LabelledTextConfig(path=str(tmp_path / "labelled.parquet")))
    assert found.train == [("bad film", "0"), ("fine film", "1")]
    pairs = pa.table({"target": ["eins"], "document": ["d"], "source": ["one"]})
    write_stream(pairs, tmp_path / "pairs.arrow")
    found = pair_readers.read_files(ParallelTextConfig(path=str(tmp_path / "pairs.arrow")))
    assert [tuple(pair[:3]) for pair in found.train] == [("one", "eins", "d")]


def save_to_disk(folder, parts):
    """Writes what `datasets.Dataset.save_to_disk` does (version 5.0)."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{len(parts):05}.arrow" for n in range(len(parts))]
    for name, texts in zip(names, parts, strict=True):
        write_stream(pa.table({"text": texts}), folder / name)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


def test_a_saved_data_set_is_its_files_of_data(tmp_path):
    save_to_disk(tmp_path / "saved", [["one", "two"], ["three"]])
    write_stream(table(), tmp_path / "saved" / "cache-1f.arrow")  # `map` leaves such files behind
    (tmp_path / "z.txt").write_text("four")
    assert list(stream_texts(str(tmp_path))) == [
        ("one", "saved/data-00000-of-00002.arrow:1"),
        ("two", "saved/data-00000-of-00002.arrow:2"),
        ("three", "saved/data-00001-of-00002.arrow:1"),
        ("four", "z.txt"),
    ]
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    assert "state.json lists data-00001-of-00002.arrow, which is not there" in refused(tmp_path)
    (tmp_path / "saved" / "state.json").write_text('{"_data_files": ')
    assert "state.json is no JSON object; the saved data set is damaged" in refused(tmp_path)


def test_splits_of_a_saved_data_set_are_named(tmp_path):
    for split in ("train", "test"):
        save_to_disk(tmp_path / "d" / split, [[split]])
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    message = f"is a saved data set of the splits train, test; name one, such as {tmp_path}/d/train"
    assert refused(tmp_path).endswith(message)
    assert [text for text, _ in stream_texts(str(tmp_path / "d" / "test"))] == ["test"]
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert "train" in [text for text, _ in stream_texts(str(tmp_path / "d"))]


def test_metadata_of_no_saved_data_set_is_text(tmp_path):
    for name in ("state.json", "dataset_dict.json"):
        (tmp_path / name).write_text("{}")
    assert [name for _, name in stream_texts(str(tmp_path))] == ["dataset_dict.json", "state.json"]


def test_rows_that_are_one_long_text_take_the_memory_of_one(tmp_path):
    """A file of 1 MB took 304 MB: a copy for each row that is read at a time."""
    words = pa.array(["a" * 1_000_000, "b"])
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None] + [0] * 300), words)
    write_stream(pa.table({"n": list(range(303)), "text": column}), tmp_path / "a.arrow")
    assert "a.arrow:3: text is null" in refused(tmp_path)
    column = pa.DictionaryArray.from_arrays(pa.array([1] + [0] * 300), words)
    write_stream(pa.table({"text": column}), tmp_path / "a.arrow")
    tracemalloc.start()
    lengths = [len(text) for text, _ in stream_texts(str(tmp_path))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lengths == [1] + [1_000_000] * 300
    assert peak < 20e6
