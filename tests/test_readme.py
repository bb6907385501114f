"""Every command of the README, with models and budgets made small."""

import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs.quickstart import get_config
from lm_jax.config.validation import validate
from tests.launch.test_launch import ROOT, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = [
    "--config.training.num_steps=12",
    "--config.training.steps_per_call=4",
    "--config.schedule.warmup_steps=4",
    "--config.samples.max_new_tokens=16",
]
SMALL_MODELS = {
    "quickstart": ["--config.model.d_model=48", "--config.model.num_layers=1"],
    "lstm": ["--config.model.d_hidden=48"],
    "symbols": [
        "--config.model.d_model=16",
        "--config.data.symbols.num_training_pairs=500",
        "--config.data.symbols.num_validation_pairs=40",
    ],
}


def small(arguments):
    """What makes a command for training short."""
    if "launch.train" not in arguments:
        return []
    config = next(a for a in arguments if a.startswith("--config="))
    return SMALL + SMALL_MODELS.get(Path(config.partition(":")[0]).stem, [])


def blocks():
    """The README's code blocks, as lists of lines."""
    return [block.splitlines() for block in re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)]


def commands():
    """The lines of all blocks."""
    return [line for block in blocks() for line in block]


def test_every_program_runs_as_shown(tmp_path):
    assert sum(line.startswith("python -m ") for line in commands()) >= 5
    with ThreadPoolExecutor(2) as pool:  # a block needs no other
        list(pool.map(lambda block: run_block(block, tmp_path), blocks()))


def run_block(block, directory):
    for line in block:
        if not line.startswith("python -m "):
            continue
        _, *arguments = shlex.split(line.replace("runs/", f"{directory}/"))
        process = subprocess.run(
            [sys.executable, *arguments, *small(arguments)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, f"{line}\n{process.stderr}"
        assert process.stdout.splitlines()[-1].startswith("{")


def test_make_has_the_two_commands():
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_files_that_the_readme_points_to_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (Path(ROOT) / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "launch/train.py", "launch/count.py"])
def test_models_shown_in_passing_can_be_built(name):
    shown = re.findall(r"--config\.model\.(\w+)=(\d+)", (ROOT / name).read_text())
    assert shown
    experiment = get_config()
    for field, value in shown:
        setattr(experiment.model, field, int(value))
    validate(experiment)
