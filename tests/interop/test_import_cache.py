"""A model of others is imported once for each state of its files."""

import json
import os

import pytest

import lm_jax
from lm_jax.errors import UserError
from lm_jax.interop import import_cache
from lm_jax.interop.import_cache import work_directory_of


@pytest.fixture
def imported(monkeypatch, tmp_path):
    """The formats that were imported; the cache is empty."""
    formats = []

    def import_model(path, workdir, format, *, log):
        formats.append(format)
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text("{}")

    monkeypatch.setattr(import_cache, "import_model", import_model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return formats


def test_a_folder_is_imported_once_and_again_when_it_changed(imported, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    first = work_directory_of(folder)
    assert work_directory_of(str(folder)) == first and imported == ["hf"]
    assert first.parent == tmp_path / "cache" / "lm_jax" / "imported"
    os.utime(folder / "config.json", (0, 0))
    assert work_directory_of(folder) != first and imported == ["hf", "hf"]
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert work_directory_of(file).name.startswith("model.gguf-") and imported[2:] == ["gguf"]


@pytest.mark.parametrize("content", [None, "{}", "{", '{"objective": "causal_lm"}', "[]"])
def test_anything_else_is_a_work_directory_or_none(imported, content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert work_directory_of(tmp_path) == tmp_path and not imported
    with pytest.raises(UserError):
        lm_jax.load(tmp_path)
