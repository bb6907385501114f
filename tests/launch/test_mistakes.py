"""A mistake on the command line: one line on stderr, and nothing on disk."""

import os
import shutil
import subprocess
import sys

import pytest

from configs.quickstart import get_config
from launch import what_is_missing
from lm_jax.config.serialization import dumps
from tests.launch.programs import ROOT, TINY, environment, launch, run, train


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("train", ["--config.model.d_modle=1"], "did you mean model.d_model?"),
        ("train", ["--config.model.mlp=swiglu"], "did you mean model.activation?"),
        ("train", ["--config.model.family=mlp"], "no field model.family; model has activation,"),
        ("train", ["--config.model.depth=3"], "did you mean model.num_layers?"),
        ("train", ["--config.model.d_model=wide"], "d_model=wide: expected an integer"),
        (
            "train",
            ["--config.model.norm=batch"],
            "model.norm=batch: value should be one of <layer_norm|",
        ),
        ("train", ["--config.model.num_heads=5"], "not a multiple of model.num_heads 5"),
        ("train", ["--config.data.source=files", "--config.data.path=no*.txt"], "no file matches"),
        ("train", ["--config.training.num_steps=1.5"], "num_steps=1.5: expected an integer"),
        ("train", ["--config.training.num_steps=1e400"], "num_steps=1e400: expected an integer"),
        ("train", ["--config.training.num_steps=5"], "warmup_steps 5 leaves no step"),
        ("train", ["--config.mesh=data:3"], "does not fit 1 device;"),
        ("train", ["--config.mesh.data=2"], "the configuration has no field mesh.data"),
        ("train", ["--profile_steps=15-10"], "--profile_steps=15-10; expected FIRST-LAST"),
        ("train", ["--profile_steps=30-41"], "this run takes 40"),
        ("train", ["--config.model.context_length=10000000"], "fewer than one window"),
        (
            "train",
            ["--config=configs/missing.py"],
            "the shipped ones are configs",
        ),
        ("train", ["--config=config/quick.py"], "did you mean configs/quickstart.py?"),
        ("train", [f"--config.samples.prompt={'long ' * 50}"], "prompt 1 is 250 tokens long"),
        ("train", ["--from_step=3"], "--from_step is the checkpoint that a fork continues; give"),
        ("train", ["--from_workdir=nowhere"], "nowhere is no work directory"),
        ("train", ["stray"], "unexpected argument 'stray'"),
        ("train", ["batch_size=12"], "did you mean --config.training.batch_size or"),
        ("train", ["--confg.x=1"], "--confg.x=1: there is no such flag; did you mean --config?"),
        ("train", ["--config.data.path=~/x"], "path=~/x: a shell leaves ~ as it is after =; write"),
        ("generate", ["--start=The"], "--start=The: there is no such flag; did you mean --prompt?"),
        ("train", ["--num_steps=5"], "did you mean --config.training.num_steps?"),
        ("classify", ["--text=one sentence"], "is no work directory"),
        ("train", ["--config=README.md"], "--config=README.md is no Python file (.py)"),
        ("train", ["--config="], "--config is empty; give a path"),
        (
            "train",
            ["--config=tests/runs/made_before/stopped/config.json"],
            "--workdir=RUN alone resumes a run",
        ),
        ("evaluate", ["--workdir", ""], "--workdir is empty; give a path"),
        ("evaluate", [], "is no work directory"),
        ("evaluate", ["--text=no*.txt"], "no file matches --text 'no*.txt'"),
        ("evaluate", ["--text=README.md", "--by_position"], "leave one out"),
        ("evaluate", ["--output=x"], "--output is about --text and --task"),
        ("evaluate", ["--beginning_token=false"], "--beginning_token is about the questions"),
        ("evaluate", ["--task=x.jsonl", "--stride=8"], "--stride is about a split or --text"),
        ("evaluate", ["--task=x.jsonl", "--against=x"], "--against compares two runs on other"),
        ("evaluate", ["--split=test", "--weights=int8"], "--weights is for figures that the work"),
        ("generate", ["--weights=int4"], "weights='int4' is unknown; expected one of float32"),
        ("translate", ["--input=x", "--split=test"], "name other sources: leave one out"),
        ("generate", [], "is no work directory"),
        ("generate", ["--num_samples=0"], "--num_samples=0 generates nothing; expected at least"),
        ("generate", ["--num_samples=-1"], "--num_samples=-1: -1 is not a non-negative integer"),
        ("generate", ["--temperature=-1"], "--temperature=-1: -1.0 is not a non-negative number"),
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


def test_help_config_shows_every_field_with_the_values_given():
    config = ["--config=configs/quickstart.py", "--config.training.num_steps=1e4"]
    status, out, err = run("launch.train", *config, "--help_config")  # without a --workdir
    assert (status, err) == (0, "")
    (row,) = [line.split() for line in out.splitlines() if "training.num_steps " in line]
    assert row[:3] == ["--config.training.num_steps", "int", "10000"]
    status, _, err = launch("count", "--help_config")
    assert status == 1 and "give --config=FILE" in err


def test_helpfull_shows_every_field_and_both_helps_those_of_a_run(tmp_path):
    config = "--config=configs/quickstart.py"
    _, out, _ = run("launch.train", config, "--config.training.num_steps=7", "--helpfull")
    assert "\n  --config.training.num_steps: " in out and "\n  --workdir: " in out
    _, out, _ = run("launch.train", "--helpfull")  # of no experiment, and without a --workdir
    assert "\n  --workdir: " in out and "\n  --config.training" not in out
    (tmp_path / "config.json").write_text(dumps(get_config()))
    for help_flag in ("--helpfull", "--help_config"):
        _, out, err = run("launch.train", f"--from_workdir={tmp_path}", help_flag)
        assert "--config.training.num_steps" in out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--text is missing: the texts"),
        (["--text=no*.txt"], "no file matches --text 'no*.txt'"),
        (["--text=README.md", "--tokenizers="], "--tokenizers is empty; give KIND:VOCABULARY"),
        (["--text=README.md", "--tokenizers=bpe:9,words"], "'words'; expected one of byte, char"),
        (["--text=README.md", "--tokenizers=tiktoken"], "give tiktoken:PATH"),
    ],
)
def test_a_comparison_of_tokenizers_that_cannot_be_made_is_one_line(arguments, message):
    status, out, err = launch("compare_tokenizers", *arguments)
    assert (status, out) == (1, "") and message in err
    assert len(err.strip().splitlines()) == 1 and err.startswith("error: ")


@pytest.mark.parametrize("steps", ["10", "1e1", "10.0"])
def test_a_warm_up_that_nobody_asked_for_fits_a_smoke_run(steps):
    config = ["--config=configs/quickstart.py", f"--config.training.num_steps={steps}"]
    status, _, err = launch("count", *config)
    assert status == 0, err
    assert (
        "schedule.warmup_steps: 1, not the configuration's 50, because training has only 10" in err
    )


def test_a_run_that_is_trained_longer_keeps_its_shorter_warm_up(tmp_path):
    begun = get_config()
    begun.training.num_steps, begun.schedule.warmup_steps, begun.seed = 40, 4, 7
    (tmp_path / "config.json").write_text(dumps(begun))
    config = ["--config=configs/quickstart.py", "--config.training.num_steps=60"]
    status, _, err = launch("train", *config, f"--workdir={tmp_path}")
    assert status == 1
    assert "(seed: 7 -> 0 and 1 more)" in err or "(seed: 7 -> 0)" in err, err
    assert "warmup" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["--config=configs/quickstart.py"]])
def test_a_reader_that_leaves_ends_a_program_quietly(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.count", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()  # before anything is written, as by `| head -0`
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (141, "")


def test_a_missing_flag_is_named_with_its_meaning():
    status, _, err = launch("generate", "--prompt=The")
    assert (status, err) == (1, "error: --workdir is missing: the work directory of the run\n")


def test_a_run_without_an_experiment_is_one_line(tmp_path):
    status, _, err = launch("train", f"--workdir={tmp_path / 'run'}")
    assert status == 1 and err.startswith("error: give an experiment, --config=FILE (configs/*.py)")


@pytest.mark.parametrize("program", ["train", "generate", "classify", "compile_check"])
def test_a_flag_that_must_be_given_is_asked_for(program):
    status, _, err = launch(program)
    name = "--config" if program == "compile_check" else "--workdir"
    assert status == 1 and f"{name}" in err and "None" not in err


def test_a_python_without_the_packages_gets_one_line_that_says_which_to_use():
    assert what_is_missing(("json", "sys")) == ""
    told = what_is_missing(("json", "no_such_package"))
    assert told.startswith(f"error: {sys.executable} has no no_such_package; use the Python that")
    assert ".venv/bin/python" in told and "\n" not in told


def test_a_file_that_is_missing_is_named_without_the_number_of_the_error(trained):
    status, _, err = launch("word_vectors", f"--workdir={trained[0]}", "--similarities=no.tsv")
    assert status == 1 and "Errno" not in err


def test_a_device_that_is_not_there_gets_one_line():
    code = "import jax; from launch import program; program.run(lambda: {'n': len(jax.devices())})"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_PLATFORMS": "abacus"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 1 and len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith("error: JAX_PLATFORMS=abacus: JAX cannot use such a device here")
    assert "'abacus' is not in the list" in found.stderr


def test_a_run_that_is_finished_says_that_nothing_is_trained_again(trained):
    workdir, _ = trained
    again = [*TINY, f"--workdir={workdir}", "--config.tensorboard=true"]
    status, out, _ = run("launch.train", *again)
    assert status == 0 and f"{workdir} is finished: nothing is trained again" in out


def test_a_fork_takes_the_configuration_of_its_origin(trained, tmp_path):
    arguments = [f"--from_workdir={trained[0]}", f"--workdir={tmp_path / 'run'}"]
    status, _, err = launch("train", *arguments, "--config.model.d_modle=3")
    assert status == 1 and "did you mean model.d_model?" in err
    status, _, err = launch("train", *arguments, "--config.model.d_model=64")
    assert status == 1 and "keeps its architecture" in err and "model.d_model: 32 -> 64" in err
    assert not (tmp_path / "run").exists()


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
    source += ["--config.training.num_steps=5", "--config.schedule.warmup_steps=1"]
    source += ["--config.evaluation.baselines=false", "--config.samples.num_samples=0"]
    train(workdir, *source)
    text.write_text("other words to learn " * 200)
    status, _, err = launch("train", *TINY, f"--workdir={workdir}", *source)
    assert status == 1 and "the data changed since" in err


def test_an_unwritable_work_directory_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = launch("train", *TINY, f"--workdir={tmp_path / 'file' / 'run'}")
    assert status == 1 and len(err.strip().splitlines()) == 1


def test_a_run_without_checkpoints_says_so(trained, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()
    status, _, err = launch("evaluate", f"--workdir={workdir}")
    assert status == 1 and "holds no checkpoint" in err


def test_a_program_that_failed_does_not_wait_for_threads():
    code = """
import atexit, threading, time
from launch import program
from lm_jax.errors import UserError

def main():
    atexit.register(print, "last words")
    threading.Thread(target=time.sleep, args=(100,)).start()
    raise UserError("the disk is full")

program.run(main, uses_jax=False)
"""
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=50
    )
    assert (found.returncode, found.stdout) == (1, "last words\n")
    assert found.stderr == "error: the disk is full\n"
