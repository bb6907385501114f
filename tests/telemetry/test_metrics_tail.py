import json
import math

import pytest

from lm_jax.telemetry import metrics_tail
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.metrics_tail import read_tail


def write(path, rows, end=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)


def row(step, kind="train"):
    return {"step": step, "kind": kind, "loss": math.log(step + 2), "text": "é" * (step % 7)}


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
def test_the_tail_is_that_of_the_whole_file_however_it_is_cut(block, monkeypatch, tmp_path):
    monkeypatch.setattr(metrics_tail, "_BLOCK", block)
    rows = [row(step, "evaluation" if step % 20 == 0 else "train") for step in range(1, 95)]
    write(tmp_path / "metrics.jsonl", rows, end='{"step": 95, "ki')  # it is being written
    whole, tail = read_metrics(tmp_path), read_tail(tmp_path / "metrics.jsonl")
    assert tail.training == [r for r in whole if r["kind"] == "train"][-50:]
    assert tail.evaluation == [r for r in whole if r["kind"] == "evaluation"][-1]
    assert tail.evaluation["step"] == 80 and tail.num_damaged == 0


def test_a_long_file_is_not_read_whole(monkeypatch, tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [row(1, "evaluation"), *map(row, range(2, 20_000))])
    monkeypatch.setattr(metrics_tail, "_MOST_BYTES", 1 << 17)
    assert path.stat().st_size > 6 * (1 << 17)
    tail = read_tail(path)
    assert [r["step"] for r in tail.training] == list(range(19_950, 20_000))
    assert tail.evaluation is None  # it is farther back


def test_damaged_lines_are_counted_and_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row(1)).encode(), b"\xff\x00", b"[1]", b'{"step": "x"}', b"{}", b""]
    path.write_bytes(b"\n".join([*lines, json.dumps(row(2)).encode(), b""]))
    tail = read_tail(path)
    assert [r["step"] for r in tail.training] == [1, 2] and tail.num_damaged == 4
    path.write_bytes(b"")
    assert read_tail(path) == read_tail(tmp_path / "missing") == ([], None, 0)
