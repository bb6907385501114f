import errno
import json

import pytest

from lm_jax.atomic_files import open_atomically
from lm_jax.errors import UserError
from lm_jax.json_values import read_object
from lm_jax.telemetry.json_files import read_metrics, write_json


def test_a_file_stays_whole_when_writing_fails(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"loss": 1.5, "rates": [float("nan"), float("inf"), 2]})
    assert json.loads(path.read_text()) == {"loss": 1.5, "rates": [None, None, 2]}
    before = path.read_text()
    with pytest.raises(OSError, match="the disk is full"), open_atomically(path) as file:
        file.write("half")
        raise OSError("the disk is full")
    assert path.read_text() == before
    assert [found.name for found in tmp_path.iterdir()] == ["values.json"]


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "values.json"
    with pytest.raises(OSError) as told, open_atomically(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(path))


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "values.json"
    with open_atomically(path) as slow:
        slow.write("1")
        write_json(path, 2)
        slow.write("3")
    assert path.read_text() == "13"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
)
def test_a_file_of_anything_but_an_object_is_named(content, message, tmp_path):
    path = tmp_path / "values.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"values.json {message}.*; restore it$"):
        read_object(path)


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"step": 2',
        b"3",
        b"{}",
        b'{"step": "2", "kind": ""}',
        b"\xff",
        b"[" * 100_000,
        b'{"step": 2, "kind": "train", "loss": "low"}',
        b'{"step": 2, "kind": "train", "loss": ' + b"1" * 5_000 + b"}",
    ],
)
def test_metrics_end_at_a_damaged_line(damaged, tmp_path):
    rows = [b'{"step": 1, "kind": "train"}', damaged, b'{"step": 3, "kind": "train"}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(rows))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
