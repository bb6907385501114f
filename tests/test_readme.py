"""Runs every command of the README, with small models and budgets, and checks what it says."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from configs.quickstart import get_config
from lm_jax.objectives.validation import validate
from tests.launch.programs import ROOT, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = [
    "--config.training.num_steps=12",
    "--config.training.steps_per_call=4",
    "--config.schedule.warmup_steps=4",
    "--config.evaluation.every_steps=0",
    "--config.evaluation.baselines=false",
    "--config.samples.num_samples=0",
    "--config.tensorboard=false",
]
SMALL_MODELS = {
    "quickstart": [
        "--config.model.context_length=64",
        "--config.model.d_model=48",
        "--config.model.num_layers=1",
    ]
}


def small(module, arguments):
    """Returns the flags that make a training command short."""
    if module != "launch.train":
        return []
    config = next(a for a in arguments if a.startswith("--config="))
    return SMALL + SMALL_MODELS[Path(config.partition(":")[0]).stem]


def blocks():
    """Returns the README's code blocks, as lists of lines."""
    return [block.splitlines() for block in re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)]


def commands():
    """Returns the lines of all blocks."""
    return [line for block in blocks() for line in block]


def test_every_program_runs_as_shown(tmp_path):
    shown = [line for line in commands() if line.startswith("python -m ")]
    assert len(shown) >= 5
    for line in shown:
        _, _, module, *arguments = shlex.split(line.replace("runs/", f"{tmp_path}/"))
        status, out, err = run(module, *arguments, *small(module, arguments))
        assert status == 0, f"{line}\n{err}"
        assert out.splitlines()[-1].startswith("{")


def test_make_has_the_two_commands():
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_it_is_short():
    assert len(README.splitlines()) <= 120


def test_its_first_screen_says_where_nothing_was_measured():
    assert "measured on a GPU or TPU yet" in " ".join(README.splitlines()[:20])


def test_the_layout_names_every_folder_in_the_order_of_the_imports():
    (layout,) = [block for block in blocks() if "lm_jax/" in block]
    shown = re.findall(r"^  (\w+)/", "\n".join(layout), flags=re.MULTILINE)
    there = {path.parent.name for path in (ROOT / "lm_jax").glob("*/__init__.py")}
    assert set(shown) == there
    assert len(shown) == len(there)


@pytest.mark.parametrize("name", ["README.md", "launch/train.py", "launch/count.py"])
def test_models_of_which_single_fields_are_shown_can_be_built(name):
    shown = re.findall(r"--config\.model\.(\w+)=(\d+)", (ROOT / name).read_text())
    assert shown
    experiment = get_config()
    for field, value in shown:
        setattr(experiment.model, field, int(value))
    validate(experiment)


def test_the_root_holds_what_the_layout_names():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not in a git repository")
    layout = next(block for block in blocks() if block[0].startswith("launch/"))
    folders = {line.split("/")[0] for line in layout if "/" in line and not line.startswith(" ")}
    files = {"LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.cfg"}
    found = {path.split("/")[0] for path in listed.stdout.splitlines() if path[0] != "."}
    assert found == folders | files
