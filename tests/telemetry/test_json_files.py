import json

import pytest

from lm_jax.telemetry.json_files import open_atomically, write_json


def test_a_file_stays_whole_when_writing_fails(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"loss": 1.5, "rates": [float("nan"), float("inf"), 2]})
    assert json.loads(path.read_text()) == {"loss": 1.5, "rates": [None, None, 2]}
    before = path.read_text()
    with pytest.raises(OSError, match="the disk is full"), open_atomically(path) as file:
        file.write("half")
        raise OSError("the disk is full")
    assert path.read_text() == before
