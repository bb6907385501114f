"""Which files a path names, and remote paths by the file system that fsspec keeps in memory."""

import gzip
import sys

import fsspec
import pytest

from lm_jax.data import DataConfig
from lm_jax.data.content import open_content
from lm_jax.data.files import find_files, find_sources
from lm_jax.data.readers import read_files
from lm_jax.data.text_stream import stream_texts
from lm_jax.errors import UserError
from tests.data.formats.refused import refused


def test_files_of_a_folder_are_sorted_as_paths_and_none_is_hidden(tmp_path, monkeypatch):
    names = ["a/z.txt", "a b/y", "a-b/x", "a.txt", "a/b/w", "A", "ä", "b"]
    for name in [*names, ".git/config", "a/.cache", "a/.x/y"]:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "c").symlink_to(tmp_path / "b")  # a file; `d` leads nowhere, and `e` to a folder
    (tmp_path / "d").symlink_to(tmp_path / "missing")
    (tmp_path / "e").symlink_to(tmp_path / "a")
    expected = sorted(tmp_path / name for name in [*names, "c"])
    assert find_files(str(tmp_path)) == expected
    below = [str(path.relative_to(tmp_path)) for path in expected]
    assert [source.name for source in find_sources(f"{tmp_path}/")] == below
    monkeypatch.chdir(tmp_path)
    for folder in (".", "./", "a/.."):
        assert [source.name for source in find_sources(folder)] == below
    assert [source.name for source in find_sources("a/*")] == ["z.txt"]


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.pipe(
        {
            "/corpus/b/c.txt": b"three",
            "/corpus/a.jsonl.gz": gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'),
            "/corpus/.hidden/d.txt": b"no",
        }
    )
    yield system
    system.rm("/corpus", recursive=True)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("memory://corpus", ["a.jsonl.gz:1", "a.jsonl.gz:2", "b/c.txt"]),
        ("memory://corpus/*.gz", ["a.jsonl.gz:1", "a.jsonl.gz:2"]),
        ("memory://corpus/b/c.txt", ["c.txt"]),
    ],
)
def test_a_url_is_read_as_a_path(memory, path, names):
    assert [name for _, name in stream_texts(path)] == names
    text = {"a.jsonl.gz:1": "one", "a.jsonl.gz:2": "two", "b/c.txt": "three", "c.txt": "three"}
    found = read_files(DataConfig(source="files", path=path))
    assert list(found.train) == [text[name] for name in names]


def test_a_remote_file_is_named_by_its_url(memory):
    memory.pipe("/corpus/a.jsonl.gz", b"\x1f\x8b\x08 cut")
    assert refused("memory://corpus").startswith("memory:///corpus/a.jsonl.gz begins as gzip does")
    sources = find_sources("memory://corpus")
    memory.rm("/corpus/b/c.txt")
    with pytest.raises(UserError, match=r"^memory:///corpus/b/c.txt cannot be read \("):
        with open_content(sources[1]):
            pass


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere", "no file matches data.path 'memory://nowhere'"),
        ("memory://corpus/*.csv", "no file matches data.path"),
        ("nonsense://a", "fsspec does not know nonsense://"),
    ],
)
def test_a_url_that_names_nothing_is_refused(memory, url, message):
    assert message in refused(url)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    assert "data.path 'abfs://a/b' needs one more package: Install adlfs" in refused("abfs://a/b")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert "'gs://a/b' is remote, which needs fsspec: pip install -e '.[data]'" in refused(
        "gs://a/b"
    )
