"""The files that docs/extending shows work as they stand, from outside the repository."""

import json
import mailbox
import re

from lm_jax.analysis.model_checks import check_model
from lm_jax.config.config_file import call_config_file
from tests.documented_commands import ROOT
from tests.launch import programs

SMALL = [
    "--config.training.num_steps=12",
    "--config.training.steps_per_call=4",
    "--config.schedule.warmup_steps=4",
    "--config.evaluation.every_steps=0",
    "--config.evaluation.baselines=false",
    "--config.samples.num_samples=0",
    "--config.tensorboard=false",
]
SMALL_MODEL = [
    "--config.model.context_length=64",
    "--config.model.d_model=48",
    "--config.model.num_layers=1",
]


def written(page, directory):
    """Writes the Python file that a page shows, and returns its path."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "extending" / page).read_text(), flags=re.DOTALL
    )
    path = directory / code.splitlines()[0].removeprefix("# ")
    path.write_text(code)
    return path


def run(program, *arguments):
    status, out, err = programs.run(f"launch.{program}", *map(str, arguments))
    assert status == 0, err
    return out


def test_the_model_trains_and_generates(tmp_path):
    config, workdir = written("model.md", tmp_path), tmp_path / "run"
    assert "WRONG" not in run("check_model", f"--config={config}")
    run("train", f"--config={config}", f"--workdir={workdir}", *SMALL)
    run("generate", f"--workdir={workdir}", "--prompt=The", "--max_new_tokens=5")


def test_the_gpt_passes_every_check_and_generates_what_it_predicts(tmp_path):
    path = written("gpt.md", tmp_path)
    experiment = call_config_file(str(path), "get_config", "configs/*.py")
    experiment.model.d_model, experiment.model.num_layers = 32, 1
    checks = {check.name: check for check in check_model(experiment)}
    assert all(check.ok for check in checks.values()), checks
    assert checks["step"].text == "16 positions"


def test_the_objective_trains(tmp_path):
    config, workdir = written("objective.md", tmp_path), tmp_path / "run"
    run("train", f"--config={config}", f"--workdir={workdir}", *SMALL, *SMALL_MODEL)
    assert '"z_loss"' in (workdir / "metrics.jsonl").read_text()


def test_the_reader_is_called(tmp_path):
    reader = written("data.md", tmp_path)
    box = mailbox.mbox(tmp_path / "archive.mbox")
    for number in range(200):
        message = mailbox.mboxMessage()
        message.set_payload(f"Message {number} is about {number * 7919} parcels.\n")
        box.add(message)
    box.flush()
    output = run(
        "train",
        f"--config={ROOT}/configs/quickstart.py",
        f"--workdir={tmp_path}/run",
        f"--config.data.source={reader}:read",
        f"--config.data.path={tmp_path}/archive.mbox",
        "--config.data.tokenizer.kind=byte",
        *SMALL,
        *SMALL_MODEL,
    )
    documents = json.loads(output.splitlines()[-1])["validation"]["documents"]
    assert 0 < documents < 100  # a tenth of 200 messages, by a hash of each
