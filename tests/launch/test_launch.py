"""The programs, run as processes, with signals and with mistaken input."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lm_jax.telemetry.json_files import read_metrics
from tests.conftest import QUICK_COMPILATION
from tests.reports.pages import Page

ROOT = Path(__file__).parents[2]
TINY = [
    "--config=configs/quickstart.py",
    "--config.model.context_length=32",
    "--config.model.num_layers=1",
    "--config.model.d_model=32",
    "--config.model.num_heads=2",
    "--config.data.tokenizer.kind=byte",
    "--config.training.num_steps=40",
    "--config.training.steps_per_call=5",
    "--config.training.log_every_steps=1",
    "--config.schedule.warmup_steps=5",
    "--config.evaluation.every_steps=20",
    "--config.evaluation.batch_size=128",
    "--config.checkpoint.every_steps=10",
    "--config.samples.max_new_tokens=40",
    "--config.tensorboard=false",
]


def environment():
    one_device = {"XLA_FLAGS": QUICK_COMPILATION, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return os.environ | one_device


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", f"launch.{program}", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(program, *arguments):
    """The exit status, the last line of stdout, and stderr."""
    process = start(program, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, (out.strip().splitlines() or [""])[-1], err


def train(workdir, *more):
    status, last, err = launch("train", *TINY, f"--workdir={workdir}", *more)
    assert status == 0, err
    return json.loads(last)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return workdir, train(workdir, "--config.tensorboard=true")


def parameters(workdir):
    """Every array of the newest checkpoint."""
    import jax

    from lm_jax.config.experiment import CheckpointConfig
    from lm_jax.training.checkpoints import Checkpoints

    checkpoints = Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True)
    with contextlib.closing(checkpoints):
        _, state = checkpoints.restore(None, "last", print)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state["params"])]


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


def test_generate_continues_each_prompt_past_the_context(trained):
    workdir, _ = trained
    arguments = ["--prompt=The ", "--prompt=if", "--max_new_tokens=50", "--num_samples=2"]
    status, last, err = launch("generate", f"--workdir={workdir}", *arguments)
    assert status == 0, err
    texts = json.loads(last)["texts"]
    assert [text[:2] for text in texts] == ["Th", "Th", "if", "if"]
    assert max(len(text.encode()) for text in texts) > 32


def test_count_says_what_a_model_costs_without_allocating():
    status, last, err = launch("count", "--model=gpt3_175b")
    assert status == 0, err
    results = json.loads(last)
    assert results["parameters"]["total"] == 174_604_259_328
    assert results["embedding"] + results["non_embedding"] == 174_604_259_328
    assert results["memory"]["lower_bound"] > 16 * 174_604_259_328 and "run" not in results
    assert results["flops"]["training"] == 3 * results["flops"]["forward"]
    assert results["flops"]["decoding"] == pytest.approx(2 * 174.6e9, rel=0.05)


def test_count_says_what_a_run_will_take():
    status, last, err = launch("count", *TINY, "--compile")
    assert status == 0, err
    results = json.loads(last)
    run, memory = results["run"], results["memory"]
    assert run["steps"] == 40 and run["tokens"] == 40 * 8 * 32
    assert run["flops"] == run["tokens"] * results["flops"]["training"]
    assert memory["total"] > memory["lower_bound"] > 16 * results["parameters"]["total"]
    assert memory["temporaries"] > memory["gradients"]


def test_count_of_a_model_that_counts_has_no_gradients_to_tell_of():
    status, last, err = launch("count", "--config=configs/ngram.py:reference")
    assert status == 0, err
    results = json.loads(last)
    assert results["flops"] == {"training": 0, "forward": 0, "decoding": 0}
    assert "memory" not in results and "run" not in results


@pytest.mark.parametrize(
    "program", ["train", "evaluate", "generate", "count", "benchmark", "sweep"]
)
def test_help_shows_how_to_begin(program):
    process = start(program, "--help")
    out, _ = process.communicate(timeout=60)
    assert f"python -m launch.{program}" in out


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("train", ["--config.model.d_modle=1"], "did you mean model.d_model?"),
        ("train", ["--config.model.d_model=wide"], "invalid literal"),
        ("train", ["--config.model.norm=batch"], "model.norm is 'batch'"),
        ("train", ["--config.model.num_heads=5"], "not a multiple of model.num_heads 5"),
        ("train", ["--config.data.source=files", "--config.data.path=no*.txt"], "no file matches"),
        ("train", ["--config.mesh=data:3"], "does not fit 1 devices"),
        ("train", ["--config.mesh.data=2"], "the configuration has no field mesh.data"),
        ("train", ["--profile_steps=15-10"], "--profile_steps=15-10; expected FIRST-LAST"),
        ("train", ["--profile_steps=30-41"], "this run takes 40"),
        ("train", ["--config.model.context_length=10000000"], "fewer than one window"),
        ("train", ["--config=configs/missing.py"], "missing.py"),
        ("train", [f"--config.samples.prompt={'long ' * 50}"], "prompt 1 is 250 tokens long"),
        ("train", ["stray"], "unexpected argument 'stray'"),
        ("train", ["--confg.x=1"], "Unknown command line flag"),
        ("evaluate", [], "is no work directory"),
        ("generate", [], "is no work directory"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(program, arguments, message, tmp_path):
    workdir = tmp_path / "run"
    config = TINY if program == "train" else []
    status, _, err = launch(program, *config, f"--workdir={workdir}", *arguments)
    assert status == 1
    assert len(err.strip().splitlines()) == 1 and err.startswith("error: ")
    assert message in err
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite=speed"], "value should be one of <train|"),
        (["--suite=train", "--model=gpt5"], "unknown model 'gpt5'"),
        (["--suite=train", "--model=gpt2_small", "--config=configs/quickstart.py"], "either"),
        (["--suite=train", "--output=README.md"], "README.md holds no results by suite"),
    ],
)
def test_a_mistaken_benchmark_gets_one_line(arguments, message):
    status, _, err = launch("benchmark", *arguments)
    assert status == 1 and err.startswith("error: ") and message in err
    assert len(err.strip().splitlines()) == 1


def test_benchmark_needs_no_more_than_jax_and_flax(tmp_path):
    """On a machine that has neither a data pipeline nor PyTorch, as accelerators' may be."""
    code = (
        "import runpy, sys;"
        "absent = 'grain torch transformers tensorboardX matplotlib sklearn tensorflow_datasets';"
        "sys.modules.update(dict.fromkeys(absent.split()));"
        "runpy.run_module('launch.benchmark', run_name='__main__')"
    )
    path = tmp_path / "machine.json"
    path.write_text('{"decode": 1}')
    arguments = ["--suite=train", "--batch_size=4", "--steps=2", "--rounds=1", f"--output={path}"]
    process = subprocess.run(
        [sys.executable, "-c", code, *TINY, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    *table, last = process.stdout.strip().splitlines()
    results = json.loads(last)
    assert json.loads(path.read_text()) == {"decode": 1, "train": results}
    assert results["suite"] == "train"
    case = results["experiments"]["quickstart, batch 4"]
    assert list(case["programs"]) == ["lm_jax"] and case["targets_per_step"] == 4 * 32
    assert case["baseline"] == "PyTorch is not installed"
    assert results["environment"]["versions"]["jax"] and "torch" not in results["environment"]
    assert any(line.startswith("quickstart, batch 4") for line in table)


@pytest.mark.slow
def test_startup_is_measured_by_processes_of_their_own():
    arguments = [*TINY, "--suite=startup", "--rounds=1", "--batch_size=4"]
    status, last, err = launch("benchmark", *arguments)
    assert status == 0, err
    (case,) = json.loads(last)["experiments"].values()
    assert all(len(case[kind]["all"]) == 1 for kind in ("cold", "warm"))


def test_what_a_configuration_refuses_is_one_line():
    status, _, err = launch("train", "--config=configs/lstm.py:refrence", "--workdir=unused")
    assert status == 1
    assert err == (
        "error: configs/lstm.py: no corpus 'refrence'; "
        "expected --config=FILE:shakespeare or :reference\n"
    )


@pytest.mark.parametrize("config", [["--config=configs/no.py"], ["--config", "configs/no.py"]])
def test_a_missing_configuration_is_named_also_without_overrides(config):
    status, _, err = launch("count", *config)
    assert status == 1 and err.startswith("error: --config=configs/no.py: no such file")


def test_a_work_directory_of_another_experiment_is_refused(trained):
    workdir, _ = trained
    before = (workdir / "config.json").read_bytes()
    status, _, err = launch("train", *TINY, f"--workdir={workdir}", "--config.model.d_model=64")
    assert status == 1 and "model.d_model: 32 -> 64" in err
    assert (workdir / "config.json").read_bytes() == before


def test_a_work_directory_of_other_data_is_refused(tmp_path):
    text, workdir = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("some words to learn " * 200)
    source = ["--config.data.source=files", f"--config.data.path={text}"]
    source += ["--config.data.split=tail", "--config.data.drop_repeated_paragraphs=false"]
    train(workdir, *source)
    text.write_text("other words to learn " * 200)
    status, _, err = launch("train", *TINY, f"--workdir={workdir}", *source)
    assert status == 1 and "the data changed since" in err


def test_an_unwritable_work_directory_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = launch("train", *TINY, f"--workdir={tmp_path / 'file' / 'run'}")
    assert status == 1 and len(err.strip().splitlines()) == 1


def test_a_full_disk_is_one_line_and_spares_what_is_there(tmp_path):
    """A limit on the size of files stands for the full disk: writes fail half-way."""
    workdir = tmp_path / "run"
    train(workdir, "--config.checkpoint.every_steps=20")
    kept = workdir / "checkpoints" / "20"
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    for path in sorted((workdir / "checkpoints" / "40").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (workdir / "checkpoints" / "40").rmdir()
    (workdir / "evaluation.json").unlink()  # as if it had been stopped on the way

    arguments = [*TINY, f"--workdir={workdir}", "--config.checkpoint.every_steps=20"]
    command = shlex.join([sys.executable, "-m", "launch.train", *arguments])
    process = subprocess.run(
        ["bash", "-c", f"ulimit -f 30; exec {command}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    err = process.stderr
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1 and len(errors) == 1, err
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_sigterm_saves_and_the_same_command_goes_on(trained, tmp_path):
    workdir = tmp_path / "run"
    process = start("train", *TINY, f"--workdir={workdir}", "--config.checkpoint.every_steps=0")
    wait_for_step(workdir, process, 5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    stopped = json.loads(out.strip().splitlines()[-1])
    assert stopped["stopped"] and 5 <= stopped["step"] < 40
    train(workdir, "--config.checkpoint.every_steps=0")
    for ours, theirs in zip(parameters(workdir), parameters(trained[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def wait_for_step(workdir, process, step):
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        rows = read_metrics(workdir)
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_five_kills_change_no_bit_of_the_result(trained, tmp_path):
    workdir = tmp_path / "run"
    rng = np.random.default_rng()
    kills = 0
    while kills < 5:
        process = start("train", *TINY, f"--workdir={workdir}")
        reached = max((row["step"] for row in read_metrics(workdir)), default=0)
        wait_for_step(workdir, process, min(reached + int(rng.integers(1, 12)), 39))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate(timeout=120)
    results = train(workdir)
    assert results["validation"] == trained[1]["validation"]
    for ours, theirs in zip(parameters(workdir), parameters(trained[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    steps = [row["step"] for row in read_metrics(workdir) if row["kind"] == "train"]
    assert steps == list(range(1, 41))


def test_a_broken_checkpoint_falls_back_to_the_one_before(tmp_path):
    workdir = tmp_path / "run"
    train(workdir)
    newest = workdir / "checkpoints" / "40"
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (workdir / "evaluation.json").unlink()  # as if it had been stopped on the way
    status, last, err = launch("generate", f"--workdir={workdir}")
    assert status == 0 and json.loads(last)["step"] == 30
    status, _, err = launch("train", *TINY, f"--workdir={workdir}")
    assert status == 0
    assert "checkpoint of step 40 cannot be read" in err and "step 30" in err


def test_a_run_without_checkpoints_says_so(tmp_path):
    workdir = tmp_path / "run"
    train(workdir)
    for path in (workdir / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    status, _, err = launch("evaluate", f"--workdir={workdir}")
    assert status == 1 and "holds no checkpoint" in err


def test_an_infinite_loss_that_was_read_back_is_shown():
    code = """
from absl import flags
from launch import train
flags.FLAGS(["train", "--workdir=run", "--config=configs/ngram.py"])
figures = {"cross_entropy": None, "perplexity": None, "accuracy": 0.5}
train._print_summary({"validation": figures, "baselines": {}})
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "validation cross-entropy: infinite" in shown.stdout
    assert "validation accuracy: 0.5000" in shown.stdout
