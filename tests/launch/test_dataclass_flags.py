"""Flags that are derived from dataclasses, parsed in a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch import dataclass_flags, program, unknown_flags
from lm_jax.models import FAMILIES
from tests.launch.programs import run

ROOT = Path(__file__).parents[2]
SAMPLES = """
import sys
from absl import flags
from launch import dataclass_flags
from lm_jax.config.parts import SamplesConfig
names = ("num_samples", "temperature", "early_stopping")
samples = dataclass_flags.define(SamplesConfig(num_samples=1), names)
flags.FLAGS(["program", *sys.argv[1:]])
print(samples())
assert "top_k" not in flags.FLAGS and "jax" not in sys.modules
"""
CONFIG = """
import dataclasses
from neighbour import WIDTH
from lm_jax.config.experiment import Experiment
def get_config(width: str = WIDTH):
    experiment = Experiment()
    experiment.model.d_model = int(width)
    return experiment
"""


def output(code, *arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("model.d_modle", "did you mean model.d_model?"),
        ("model.depth", "did you mean model.num_layers?"),
        ("model.width", "did you mean model.d_model?"),
        ("learning_rate", "did you mean schedule.peak_learning_rate?"),
        ("model.batch_size", "did you mean training.batch_size or evaluation.batch_size?"),
        ("trainig.num_steps", "did you mean training.num_steps?"),
        ("mesh.data", "mesh has no parts: give --config.mesh=VALUE"),
        ("model", "it is a group of fields, such as --config.model.d_model=VALUE"),
        ("device", "JAX_PLATFORMS=cpu before the command takes the CPU"),
        ("model.colour", "model has d_model, num_heads, num_layers"),
        ("colour", "it has model, training, evaluation, schedule, mesh"),
    ],
)
def test_an_unknown_field_is_told_from_a_known_one(path, hint):
    known = ["model.d_model", "model.num_layers", "model.num_heads", "training.num_steps"]
    known += ["training.batch_size", "evaluation.batch_size", "schedule.peak_learning_rate"]
    assert unknown_flags.field_hint(path, [*known, "mesh"]) == hint


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("batch_size", "--config.training.batch_size or --config.evaluation.batch_size"),
        ("block_size", "--config.model.context_length"),  # not model.vocab_size, which looks alike
        ("eval_interval", "--config.evaluation.every_steps"),
        ("out_dir", "--workdir"),
        ("workdirs", "--workdir"),
        ("confg.x", "--config"),
        ("evaluation.every_stps", "--config.evaluation.every_steps"),
    ],
)
def test_an_unknown_flag_is_told_from_the_flags_and_from_the_fields(name, meant):
    fields = ["model.vocab_size", "model.context_length", "training.batch_size"]
    fields += ["evaluation.batch_size", "evaluation.every_steps", "checkpoint.every_steps"]
    found = unknown_flags.hint(name, ["config", "workdir"], fields)
    assert found == f"did you mean {meant}?"
    path = f"model.{name}"
    if "config." in meant and "." not in name:
        assert unknown_flags.field_hint(path, fields) == found.replace("--config.", "")


def test_a_flag_without_a_like_is_answered_or_sent_to_the_help():
    assert unknown_flags.hint("device", ["config"], []) == (
        "JAX_PLATFORMS=cpu before the command takes the CPU"
    )
    assert unknown_flags.hint("colour", ["config"], []) == "--help lists the flags"
    found = unknown_flags.hint("colour", ["config"], ["seed"])
    assert found == "--help lists the flags, --help_config the fields"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("flag --a=x: invalid literal for int() with base 10: 'x'", "flag --a=x: expected an int"),
        ("flag --b=x: could not convert string to float: 'x'", "flag --b=x: expected a number"),
        ("flag --c=x: ('Non-boolean argument to boolean flag', 'x')", "flag --c=x: expected true"),
        ("flag --a=0: 0 is not a positive integer", "flag --a=0: 0 is not a positive integer"),
    ],
)
def test_the_type_that_a_flag_expects_is_named(message, shown):
    assert program._in_words(message).startswith(shown)


def test_a_flag_sets_the_field_of_its_name_and_the_others_keep_their_defaults():
    found = output(SAMPLES, "--temperature=0", "--early_stopping=never")
    assert found.returncode == 0, found.stderr
    for field in ("num_samples=1", "temperature=0.0", "early_stopping='never'", "top_p=0.95"):
        assert field in found.stdout


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--temperature=-1", "a non-negative number"),
        ("--early_stopping=perhaps", "<false|true|never>"),
        ("--top_k=3", "Unknown command line flag 'top_k'"),
    ],
)
def test_a_flag_accepts_what_its_field_accepts(argument, message):
    found = output(SAMPLES, argument)
    assert found.returncode != 0 and message in found.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_flags_accept_the_defaults_of_every_model(family):
    config = FAMILIES[family].config()
    assert dataclass_flags.define(config, prefix=f"{family}_of_test.")() == config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A configuration outside of the repository, which imports a file beside it."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "neighbour.py").write_text("WIDTH = '24'\n")
    (folder / "mine.py").write_text(CONFIG)
    return folder / "mine.py"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config={}"], "d_model=24"),
        (["--config={}:48"], "d_model=48"),
        (["--config.model.num_heads", "4", "--config={}", "left"], "num_heads=4"),
        (["--config={}", "--config.model.scale_embeddings"], "scale_embeddings=True"),
        (["--config={}", "--noconfig.model.tie_embeddings"], "tie_embeddings=False"),
        (["--config={}", "--config.model.d_modle=3"], "UserError: --config.model.d_modle=3: the"),
        (["--config={}", "--config.model.d_model=3.5"], "IllegalFlagValueError"),
        (["--config={}:"], "ValueError"),  # a fault of the file: its traceback is shown
        (["--config.model.d_model=3"], "UserError: --config.model.d_model=3 sets a field of the"),
        (["--config=missing.py"], "UserError: --config=missing.py: no such file"),
    ],
)
def test_fields_of_the_experiment_of_config_are_flags(arguments, expected, config):
    arguments = [argument.format(config) for argument in arguments]
    _, out, err = run("tests.launch.print_experiment", *arguments)
    assert expected in out, out + err
