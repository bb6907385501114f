"""Programs run the code that a work directory names if the run is one's own, or when told to."""

import json

import pytest

from tests.conftest import slow_but
from tests.launch import programs
from tests.launch.programs import TINY
from tests.trusted_code import has_run, run_directory, write

READERS = [
    ("evaluate", "--workdir=RUN"),
    ("evaluate", "--workdir=RUN", "--text=RUN/config.json"),
    ("generate", "--workdir=RUN", "--prompt=a"),
    ("translate", "--workdir=RUN"),
    ("classify", "--workdir=RUN", "--text=a"),
    ("word_vectors", "--workdir=RUN", "--similarities=RUN/config.json"),
    ("replay", "--workdir=RUN", "--step=1"),
    ("convert", "--workdir=RUN", "--path=NEW", "--to=hf"),
    ("train", "--workdir=RUN"),
    ("train", "--config=configs/quickstart.py", "--workdir=RUN"),
    ("train", "--workdir=NEW", "--from_workdir=RUN"),
    ("train", "--workdir=NEW", "--from_workdir=RUN", "--fine_tune"),
    ("train", "--workdir=RUN", "--help_config"),
    ("train", *TINY, "--workdir=NEW", "--config.data.tokenizer.path=RUN"),
    ("count", *TINY, "--config.data.tokenizer.path=RUN"),
    ("compare_tokenizers", "--text=docs/*.md", "--tokenizers=bpe:RUN"),
    ("sweep", "--sweepdir=SWEEP", "--table"),
    ("sweep", "--sweepdir=SWEEP", "--run=0"),
    ("sweep_report", "--sweepdir=SWEEP", "--by_position=all"),
]


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """The directories of a stranger, a run and a sweep, which name a file that leaves a trace."""
    place = tmp_path_factory.mktemp("strange")
    evil = write(place / "evil.py", "")
    named = {"model": {"family": f"{evil}:FAMILY"}}
    run = run_directory(place / "run", **named)
    (run / "tokenizer").mkdir()
    (run / "tokenizer" / "tokenizer.json").write_text(json.dumps({"kind": f"{evil}:KIND"}))
    sweep = place / "sweep"
    run_directory(sweep / "runs" / "a-1", **named)
    cost = ("parameters", "non_embedding_parameters", "steps", "training_tokens")
    costs = dict.fromkeys((*cost, "flops_per_step", "state_bytes"), 1)
    planned = {"address": "1", "labels": {}, "cost": costs, "experiment": named}
    (sweep / "sweep.json").write_text(json.dumps({"a": planned}))
    row = {"name": "a", "address": "1", "status": "finished", "family": "transformer"}
    row |= dict.fromkeys((*cost[1:], "training_flops", "seed", "validation_loss"), "1")
    (sweep / "results.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    return place


QUICK = (0, 8, 16)


@pytest.mark.parametrize("number", slow_but(range(len(READERS)), *QUICK))
def test_programs_refuse_the_code_of_a_stranger(number, strange):
    evil = strange / "evil.py"
    before = sorted(path for path in strange.rglob("*") if "logs" not in path.parts)
    places = {"RUN": strange / "run", "NEW": strange / "new", "SWEEP": strange / "sweep"}
    program, *arguments = READERS[number]
    for name, place in places.items():
        arguments = [a.replace(name, str(place)) for a in arguments]
    status, _, err = programs.launch(program, *arguments)
    assert status == 1 and "--trust_code" in err and err.startswith("error: "), err
    assert len(err.splitlines()) == 1 and str(evil) in err
    assert not has_run(evil)
    assert sorted(path for path in strange.rglob("*") if "logs" not in path.parts) == before


CODE = """
from lm_jax.training.optimizers import OPTIMIZERS

def OURS(config, schedule, declared):
    return OPTIMIZERS["adamw"](config, schedule, declared)
"""
SWEEP = """
from lm_jax.sweeps.search_space import grid
from tests.experiments import tiny

def get_sweep():
    base = tiny(training__num_steps=10, optimizer__name="FILE:OURS")
    base.data.tokenizer.kind = "byte"
    base.evaluation.batch_size = 512
    return grid(base, {"seed": [1, 2]})
"""


@pytest.mark.slow
def test_a_run_of_ones_own_is_read_back_and_that_of_another_asks(tmp_path):
    optimizer, workdir = write(tmp_path / "ours.py", CODE), tmp_path / "run"
    arguments = ["--config.training.num_steps=10", f"--workdir={workdir}"]

    def launch(user, program, *more):
        state = str(tmp_path / user)
        return programs.run(f"launch.{program}", *more, XDG_STATE_HOME=state)

    named = f"--config.optimizer.name={optimizer}:OURS"
    assert launch("me", "train", *TINY, *arguments, named)[0] == 0
    generate = ("generate", f"--workdir={workdir}", "--prompt=The", "--max_new_tokens=3")
    has_run(optimizer)
    status, _, err = launch("me", *generate)
    assert status == 0, err
    assert has_run(optimizer)
    longer = ("train", f"--workdir={workdir}", "--config.training.num_steps=12")
    for command in (generate, longer):
        status, _, err = launch("you", *command)
        assert status == 1 and "--trust_code" in err, err
    assert not has_run(optimizer)
    status, _, err = launch("you", *generate, "--trust_code")
    assert status == 0 and "trusted from now on" in err, err
    status, _, err = launch("you", *generate)
    assert status == 0 and "trusted" not in err, err


@pytest.mark.slow
@pytest.mark.parametrize("has_home", [True, False])
def test_a_sweep_trains_in_processes_without_a_question(has_home, tmp_path):
    optimizer = write(tmp_path / "ours.py", CODE)
    (tmp_path / "sweep.py").write_text(SWEEP.replace("FILE", str(optimizer)))
    if not has_home:
        (tmp_path / "state").write_text("a file where the list would be\n")
    state = str(tmp_path / "state")
    arguments = [f"--config={tmp_path}/sweep.py", f"--sweepdir={tmp_path}/sweep"]
    status, out, err = programs.run("launch.sweep", *arguments, XDG_STATE_HOME=state)
    assert status == 0 and json.loads(out.splitlines()[-1])["finished"] == 2, err
    table = ("launch.sweep", f"--sweepdir={tmp_path}/sweep", "--table")
    status, out, err = programs.run(*table, XDG_STATE_HOME=state)
    assert status == 0, err  # no code is imported to list results
