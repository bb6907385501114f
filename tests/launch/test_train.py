"""Training from the command line, and what reads the run: evaluate and generate."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lm_jax.telemetry.json_files import read_metrics
from tests.launch.programs import ROOT, launch, run
from tests.reports.pages import Page


def test_a_run_leaves_all_that_its_page_promises(trained):
    workdir, results = trained
    for name in ("config.json", "metrics.jsonl", "samples.txt", "evaluation.json", "report.html"):
        assert (workdir / name).stat().st_size > 0, name
    assert list((workdir / "tensorboard").iterdir())
    page = Page((workdir / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("select")) == 3 and len(page.all("img")) == 2  # a layer of two heads
    validation = results["validation"]
    assert validation["cross_entropy"] < np.log(257)
    assert set(results["baselines"]) >= {"uniform", "character 5-gram", "xz -9", "bz2 -9"}
    steps = [row["step"] for row in read_metrics(workdir) if row["kind"] == "train"]
    assert steps == list(range(1, 41))


def test_evaluate_repeats_the_figures_of_training(trained):
    workdir, results = trained
    # The preset's flags are about GPUs: here they only have to be known, and in time.
    arguments = ["--batch_size=7", "--xla_preset=gpu"]
    status, last, err = launch("evaluate", f"--workdir={workdir}", *arguments)
    assert status == 0, err
    for name, value in json.loads(last)["validation"].items():
        assert value == pytest.approx(results["validation"][name], rel=1e-5), name


def test_the_test_split_is_written_beside_the_validation_figures(trained, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    (workdir / "test").mkdir()
    for path in (workdir / "validation").glob("validation_*"):  # the same texts and figures
        shutil.copy(path, workdir / "test" / path.name.replace("validation", "test"))
    described = json.loads((workdir / "data.json").read_text())
    described["test"] = described["validation"]
    (workdir / "data.json").write_text(json.dumps(described))
    status, out, err = run("launch.evaluate", f"--workdir={workdir}", "--split=test")
    assert status == 0, err
    figures = json.loads(out.splitlines()[-1])["test"]
    assert figures["cross_entropy"] == pytest.approx(trained[1]["validation"]["cross_entropy"])
    written = json.loads((workdir / "evaluation.json").read_text())
    windows = {"stride": 0, "context_length": 0, "windows": "documents"}
    assert written.pop("test") == {"step": 40} | windows | figures
    assert written == json.loads((trained[0] / "evaluation.json").read_text())
    (row,) = [line.split() for line in out.splitlines() if line.startswith("tokens ")]
    assert row == ["tokens", "predicted", *[f"{figures['tokens']:,}"] * 2]
    assert any(line.split() == ["validation", "test"] for line in out.splitlines())


def test_generate_continues_each_prompt_past_the_context(trained):
    workdir, _ = trained
    arguments = ["--prompt=The ", "--prompt=if", "--max_new_tokens=50", "--num_samples=2"]
    status, last, err = launch("generate", f"--workdir={workdir}", *arguments)
    assert status == 0, err
    texts = json.loads(last)["texts"]
    assert [text[:2] for text in texts] == ["Th", "Th", "if", "if"]
    assert max(len(text.encode()) for text in texts) > 32


PROGRAMS = [path.stem for path in (ROOT / "launch").glob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_help_shows_how_to_begin(program):
    _, out, _ = run(f"launch.{program}", "--help")
    assert f"python -m launch.{program}" in out


def test_an_infinite_loss_that_was_read_back_is_shown():
    code = """
from absl import flags
from launch import train
flags.FLAGS(["train", "--workdir=run", "--config=configs/ngram.py"])
figures = {"cross_entropy": None, "perplexity": None, "accuracy": 0.5}
train._print_summary({"validation": figures, "baselines": {}})
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "validation cross-entropy, nats: infinite" in shown.stdout
    assert "validation accuracy, %: 50.0" in shown.stdout
