import json
import math

import pytest

from lm_jax.errors import UserError
from lm_jax.reports.run_report import write_report
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.run_log import RunLog


def log_steps(workdir, steps, first_step=0):
    log = RunLog(workdir, total_steps=100, tensorboard=True, first_step=first_step)
    for step in steps:
        log.training(step, {"loss": 5 / step, "learning_rate": 0.1, "tokens": step})
    log.close()


def test_a_resumed_run_has_every_step_once(tmp_path):
    log_steps(tmp_path, range(1, 21))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "ki')  # killed in mid-line
    assert len(read_metrics(tmp_path)) == 20
    log_steps(tmp_path, range(11, 31), first_step=10)
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 31))


def test_a_run_resumed_at_its_end_has_one_evaluation_of_it(tmp_path):
    figures = {"cross_entropy": 2.0, "perplexity": 7.4, "accuracy": 0.5}
    for first_step in (0, 100):
        options = {"first_step": first_step, "measured_again": first_step == 100}
        log = RunLog(tmp_path, total_steps=100, tensorboard=False, **options)
        if not first_step:
            log.training(100, {"loss": 2.0})
        log.evaluation(100, figures)
        log.close()
    assert [row["kind"] for row in read_metrics(tmp_path)] == ["train", "evaluation"]


def test_a_run_that_begins_anew_measures_its_first_state_once(tmp_path):
    measures = {"cross_entropy": 1.0, "perplexity": 2.7, "accuracy": 0.5}
    for _ in range(2):  # it was killed before its first checkpoint
        log = RunLog(tmp_path, total_steps=100, tensorboard=False)
        log.evaluation(0, measures)
        log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [0]


def test_numbers_that_json_lacks_become_null(tmp_path):
    log = RunLog(tmp_path, total_steps=1, tensorboard=False)
    log.training(1, {"loss": math.nan, "learning_rate": math.inf})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert row["loss"] is None and row["learning_rate"] is None


def test_the_losses_of_sources_are_printed_and_told_to_loggers(tmp_path, capsys):
    told = {}
    log = RunLog(
        tmp_path,
        total_steps=1,
        tensorboard=False,
        on_metrics=lambda step, numbers: told.update(numbers),
    )
    figures = {"cross_entropy": 1.25, "perplexity": 3.49, "accuracy": 0.5}
    log.evaluation(1, figures | {"sources": {"a": figures, "b c": {"cross_entropy": 2.5}}})
    log.close()
    assert "  by source: a 1.2500, b c 2.5000 nats\n" in capsys.readouterr().err
    assert told["evaluation/cross_entropy"] == told["evaluation/sources/a/cross_entropy"] == 1.25
    assert told["evaluation/sources/b c/cross_entropy"] == 2.5


def test_progress_goes_to_stderr_in_few_lines(tmp_path, capsys):
    log_steps(tmp_path, range(1, 101))
    out, err = capsys.readouterr()
    assert out == ""
    assert "step 100/100" in err and len(err.splitlines()) < 5


def test_the_environment_names_versions_and_machine():
    found = environment()
    assert found["versions"]["jax"] and found["cores"] >= 1 and found["devices"]
    json.dumps(found)


def test_the_report_is_self_contained_and_escapes_its_samples(tmp_path):
    log_steps(tmp_path, range(1, 50))
    (tmp_path / "samples.txt").write_text("</pre><script>alert(1)</script>", encoding="utf-8")
    validation = {"bits_per_character": 2.0, "cross_entropy": 3.0, "tokens": 7}
    results = {"validation": validation, "baselines": {"xz -9": 2.4, "uniform": 6.5}}
    (tmp_path / "evaluation.json").write_text(json.dumps(results))
    (tmp_path / "config.json").write_text(json.dumps({"model": {"d_model": 77}}))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "alert(1)" in page and "<script>alert" not in page
    assert "http://" not in page and "https://" not in page and "src=" not in page
    for text in ("this model", "xz -9", "model.d_model", "77", "learning rate"):
        assert text in page


def test_a_report_needs_metrics(tmp_path):
    with pytest.raises(UserError, match="has no metrics.jsonl"):
        write_report(tmp_path)
