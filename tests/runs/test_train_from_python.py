"""Training from Python: what is asked of training, and what is left where it is refused."""

import json
import os
import signal
import threading

import pytest

import lm_jax
from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import dumps, with_changes
from lm_jax.errors import UserError
from lm_jax.parallel import processes
from lm_jax.runs import train_from_python, trained_run
from lm_jax.runs.workdir import read_experiment
from lm_jax.training.checkpoints import finished_steps

TEXTS = ["One text, \U0001f642.\n" * 9, " ", "Another."]


@pytest.fixture(scope="module")
def run(language_model):
    return lm_jax.load(language_model)


@pytest.fixture
def asked(monkeypatch, language_model):
    """What training is called with; nothing is trained."""
    calls = []

    def record(*given, **options):
        calls.append((given, options))

    monkeypatch.setattr(train_from_python.training, "train", record)
    monkeypatch.setattr(train_from_python.training, "train_fork", record)
    monkeypatch.setattr(trained_run, "load", lambda directory: directory)
    return calls


def test_fine_tuning_trains_the_runs_parameters_on_texts_that_the_directory_keeps(
    run, asked, tmp_path
):
    changes = {"training.batch_size": 2, "fine_tuning.parameters": "head"}
    tuned = run.train(tmp_path / "a" / "tuned", TEXTS, num_steps=3, changes=changes)
    assert tuned == tmp_path / "a" / "tuned"
    (experiment, directory, _), _ = asked[0]
    assert directory == tuned and experiment.model == read_experiment(run.workdir).model
    assert experiment.fine_tuning.workdir == experiment.data.tokenizer.path == str(run.workdir)
    assert experiment.fine_tuning.parameters == "head"
    training = experiment.training
    assert (training.num_steps, training.batch_size) == (3, 2)
    assert experiment.schedule.warmup_steps < 3  # the run's own would take all steps
    lines = (tuned / "training_texts.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == [TEXTS[0], TEXTS[2]]
    assert experiment.data.path == str(tuned / "training_texts.jsonl")
    assert (experiment.data.split, experiment.data.validation_path) == ("tail", "")

    run.train(tmp_path / "b", TEXTS, validation_texts=["held out"])
    (experiment, *_), _ = asked[1]
    assert experiment.data.validation_path == str(tmp_path / "b" / "validation_texts.jsonl")
    assert "held out" in (tmp_path / "b" / "validation_texts.jsonl").read_text()


def test_a_default_warm_up_fits_a_short_run_and_stays_when_it_grows(asked, tmp_path, capsys):
    short = Experiment()
    short.training.num_steps = 50
    lm_jax.train(short, tmp_path)
    assert capsys.readouterr().err.startswith(
        "schedule.warmup_steps: 5, not the configuration's 100, because training has"
    )
    ((begun, directory, _), _) = asked.pop()
    assert begun.schedule.warmup_steps == 5 and directory == tmp_path
    (tmp_path / "config.json").write_text(dumps(begun))
    short.training.num_steps = 500
    lm_jax.train(short, tmp_path)
    assert asked.pop()[0][0].schedule.warmup_steps == 5 and capsys.readouterr().err == ""
    short.schedule.warmup_steps = 20  # not what the run was begun with
    lm_jax.train(short, tmp_path)
    assert asked.pop()[0][0].schedule.warmup_steps == 20


def test_a_run_goes_on_as_a_fork_of_its_checkpoint(run, asked, tmp_path):
    run.train(tmp_path / "longer", num_steps=9, changes={"seed": 1})
    (experiment, directory, source, step, _), _ = asked[0]
    assert (directory, source, step) == (tmp_path / "longer", run.workdir, 5)
    assert (experiment.training.num_steps, experiment.seed) == (9, 1)
    assert experiment.mesh == "auto"  # its own does not fit the devices here


def test_a_short_continuation_has_a_short_warmup(run, asked, tmp_path):
    changes = {"schedule.warmup_steps": 30}
    run.train(tmp_path / "a", num_steps=20, changes=changes)  # as it was given, for the program
    given = read_experiment(run.workdir)
    given.schedule.warmup_steps = 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_from_python, "read_experiment", lambda _: given)
        run.train(tmp_path / "b", num_steps=20)
    assert [call[0][0].schedule.warmup_steps for call in asked] == [30, 2]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "fork it from before: python -m launch.train --from_workdir=a/b --workdir=NEW "
            "--config.training.num_steps=9 --from_step=4",
            'fork it from before: lm_jax.load("a/b", "4").train("NEW", num_steps=9)',
        ),
        (
            "fine-tune it: --from_workdir=a --fine_tune --workdir=NEW --config.data.source=files "
            "--config.data.path=FILES",
            'fine-tune it: lm_jax.load("a").train("NEW", texts)',
        ),
        (
            "give the steps, such as --config.training.num_steps=8",
            "give the steps, such as num_steps=8",
        ),
        (
            "say so with --config.data.tokenizer.path=a",
            'say so with changes={"data.tokenizer.path": "a"}',
        ),
        ("its parameters: --fine_tune", "its parameters: give texts"),
        ("choose another --workdir", "choose another work directory"),
    ],
)
def test_messages_name_what_a_caller_writes(run, message, expected, monkeypatch, tmp_path):
    def fail(*given, **options):
        raise UserError(message)

    monkeypatch.setattr(train_from_python.training, "train_fork", fail)
    with pytest.raises(UserError) as raised:
        run.train(tmp_path / "x", num_steps=9)
    assert str(raised.value) == expected


def test_a_directory_that_was_begun_with_other_texts_is_left_alone(run, asked, tmp_path):
    run.train(tmp_path, TEXTS)
    (tmp_path / "config.json").write_text("{}")
    run.train(tmp_path, TEXTS)  # resumes
    before = (tmp_path / "training_texts.jsonl").read_bytes()
    with pytest.raises(UserError, match="was begun with other texts than these; choose another"):
        run.train(tmp_path, ["others"])
    assert (tmp_path / "training_texts.jsonl").read_bytes() == before and len(asked) == 2


def test_a_run_that_fails_before_it_begins_leaves_nothing(run, monkeypatch, tmp_path):
    def fail(*given, **options):
        assert (tmp_path / "new" / "run" / "training_texts.jsonl").exists()
        raise UserError("it cannot run")

    monkeypatch.setattr(train_from_python.training, "train", fail)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="it cannot run"):
        run.train(tmp_path / "new" / "run", TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": "one"}, "texts is one str"),
        ({"texts": []}, "texts hold nothing but white space; give at least one"),
        ({"texts": TEXTS, "validation_texts": [""]}, "validation_texts hold nothing but white"),
        ({"validation_texts": TEXTS}, "validation_texts are given without texts to train on"),
        ({"changes": {"training.steps": 3}}, "no field 'training.steps' to change; expected a do"),
        ({"changes": {"seed.x": 3}}, "no field 'seed.x' to change"),
    ],
)
def test_training_that_cannot_be_asked_is_refused(run, asked, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run.train(tmp_path / "x", **options)
    assert not asked and not (tmp_path / "x").exists()


def test_fine_tuning_from_an_earlier_checkpoint_is_refused(run, asked, monkeypatch, tmp_path):
    assert finished_steps(run.workdir / "checkpoints") == [5]
    monkeypatch.setattr(train_from_python, "finished_steps", lambda _: [5, 8])
    with pytest.raises(UserError, match="loaded at step 5, and fine-tuning begins with .* step 8"):
        run.train(tmp_path, TEXTS)


def test_changes_reach_the_field_that_they_name():
    changed = with_changes(Experiment(), {"model.d_model": 64, "seed": 3, "mesh": "data:1"})
    assert (changed.model.d_model, changed.seed, changed.mesh) == (64, 3, "data:1")
    assert with_changes(Experiment(), {}) == Experiment()


def test_an_interrupt_asks_to_stop_and_is_the_callers_again_afterwards():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with processes.stopping_on_request() as stop:
            assert not stop(1)
            os.kill(os.getpid(), signal.SIGINT)
            assert stop(2)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])
    found = []

    def elsewhere():  # only the main thread may handle signals
        with processes.stopping_on_request() as stop:
            found.append(stop(1))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]


def test_the_card_of_a_run_shows_what_it_is_and_reached(run):
    card = run._repr_html_()
    assert "bits per character" in card and f"{run.num_parameters:,}" in card
    assert str(run.workdir / "report.html") in card and "<script" not in card
    assert run.results["step"] == 5 and run.metrics[-1]["kind"] == "evaluation"
