import csv
import json

import numpy as np

from lm_jax.config.tasks import TaskConfig
from lm_jax.evaluation.tasks import choose_answers, match_answers, read_task
from lm_jax.reports.task_page import task_table, write_tasks


def test_a_page_shows_each_task_and_its_answers(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"context": "<b>", "choices": ["x&y", "z"], "answer": 1}\n' * 3)
    chosen = choose_answers(read_task("choices", TaskConfig(str(path))), np.arange(6.0))
    path.write_text('{"question": "1 + 1?", "answer": 2}\n')
    matched = match_answers(read_task("sums", TaskConfig(str(path))), ["3"])
    head, first, second = task_table([chosen, matched])
    assert head[-2:] == ["chance", "calibration error"]
    assert first[3] == "0.0% (0.0% to 56.1%)" and first[-2] == "50.0%"
    assert second[4:] == ["", "", "", ""]
    page = write_tasks([chosen, matched], "a <run>", tmp_path).read_text()
    assert "Tasks of a &lt;run&gt;" in page and "x&amp;y" in page and "<b>" not in page
    assert page.count("<details>") == 4 and page.count("share of right answers") >= 1
    kept = json.loads((tmp_path / "tasks.json").read_text())
    assert kept["choices"]["accuracy"] == 0 and kept["choices"]["bins"][0]["answers"] == 3
    assert kept["sums"]["task"]["path"] == str(path)
    rows = list(csv.DictReader((tmp_path / "answers.csv").open()))
    assert [row["right"] for row in rows] == ["0"] * 4 and rows[0]["nats"] == "[0.0, 1.0]"
    assert rows[0]["question"] == f"{path}:1" and rows[3]["given"] == "3"
