"""The benchmarks from the command line."""

import json
import subprocess
import sys

import pytest

from tests.launch.programs import ROOT, TINY, environment, launch


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


@pytest.mark.slow
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
