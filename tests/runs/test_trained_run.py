import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lm_jax import data
from lm_jax.config.experiment import EvaluationConfig, SamplesConfig
from lm_jax.config.tasks import TaskConfig
from lm_jax.data import TokenizerConfig, pipeline, prepare, texts_of
from lm_jax.errors import UserError
from lm_jax.evaluation.tasks import read_task
from lm_jax.evaluation.token_scores import Scored, score_sequences
from lm_jax.objectives import objective_of
from lm_jax.runs import evaluate as evaluate_run
from lm_jax.runs import workdir
from lm_jax.runs.evaluate import (
    evaluate,
    evaluate_by_position,
    evaluate_texts,
    score,
    scorer_of,
    split_of,
)
from lm_jax.runs.generate import complete
from lm_jax.runs.tasks import ask
from lm_jax.runs.train import train
from lm_jax.runs.trained_run import Run, load
from tests.experiments import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run in muP on eight devices, on text without a space."""
    place = tmp_path_factory.mktemp("unspaced")
    (place / "text.txt").write_text("abcabd" * 4000)
    (place / "test.txt").write_text("abdabc" * 300)
    experiment = tiny(mesh="fsdp:2,tensor:2,sequence:2", training__num_steps=10, mup_base_width=8)
    experiment.data = dataclasses.replace(
        experiment.data,
        source="files",
        path=str(place / "text.txt"),
        test_path=str(place / "test.txt"),
        split="tail",
        drop_repeated_paragraphs=False,
        cache_directory=str(place / "cache"),
    )
    experiment.data.tokenizer.vocab_size = 270
    experiment.samples.num_samples, experiment.samples.num_beams = 1, 2
    experiment.samples.max_new_tokens = 100  # more than fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
        train(experiment, place / "run")
    return place / "run"


def test_what_a_run_writes_is_json(trained):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads((trained / "evaluation.json").read_text(), parse_constant=refuse)
    assert results["validation"]["word_perplexity"] is None  # e^(all nats of the text): infinite


def test_the_sums_of_documents_are_kept_and_make_up_the_figures(trained):
    kept = json.loads((trained / "by_document_validation.json").read_text())
    written = json.loads((trained / "evaluation.json").read_text())["validation"]
    nats = sum(kept["nats"])
    assert kept["step"] == 10 and len(kept["nats"]) == written["documents"]
    assert nats / sum(kept["targets"]) == pytest.approx(written["cross_entropy"])
    bits = nats / math.log(2) / sum(kept["characters"])
    assert bits == pytest.approx(written["bits_per_character"])
    assert sum(kept["correct"]) / sum(kept["targets"]) == pytest.approx(written["accuracy"])


def test_a_run_of_many_devices_is_read_on_one(trained, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: first)
    run = load(str(trained))  # a path, as text or as a Path
    assert run.built.mesh.size == 1
    figures = evaluate(run, split="validation", eval_config=EvaluationConfig(batch_size=3))
    written = json.loads((trained / "evaluation.json").read_text())["validation"]
    assert figures["cross_entropy"] == pytest.approx(written["cross_entropy"], rel=1e-5)
    assert complete(run, ["ab"], SamplesConfig(max_new_tokens=4))[0].text.startswith("ab")


def test_other_texts_are_measured_as_the_own_split_is(trained):
    run = load(trained)
    held_out = texts_of(run.tokenizer, split_of(run, "validation"))
    for stride in (0, 8):
        eval_config = EvaluationConfig(batch_size=8, stride=stride)
        sets = {"held out": held_out, "half": [held_out[0][: len(held_out[0]) // 2], " "]}
        found = evaluate_texts(run, sets, eval_config=eval_config)
        own = evaluate(run, split="validation", eval_config=eval_config)
        assert found["held out"] == own
        assert found["half"]["characters"] == own["characters"] // 2
    with pytest.raises(UserError, match="blank: no document holds any text"):
        evaluate_texts(run, {"blank": [" "]}, eval_config=EvaluationConfig(batch_size=8))


def test_continuations_cost_what_evaluation_says(trained):
    run = load(trained)
    text = "abcabdabcabd"
    found = evaluate_texts(run, {"one": [text]}, eval_config=EvaluationConfig(batch_size=8))["one"]
    (whole,) = score(run, [""], [text]).nats
    end = np.array([run.tokenizer.end_of_document], np.int32)
    ids = np.concatenate([end, run.tokenizer.encode(text), end])
    (scores,) = score_sequences(scorer_of(run), [Scored(ids)])
    assert scores.nats.sum() == pytest.approx(found["nats"], rel=1e-5)
    assert scores.nats[:-1].sum() == pytest.approx(whole, rel=1e-5)
    masked = dataclasses.replace(run.built.experiment, objective="masked_lm")
    built = run.built._replace(experiment=masked, objective=objective_of(masked))
    with pytest.raises(UserError, match="is trained for masked_lm; continuations are scored by"):
        score(dataclasses.replace(run, built=built), ["a"], ["b"])


def test_a_run_on_a_mixture_is_measured_by_source_too(trained, monkeypatch):
    run, eval_config = load(trained), EvaluationConfig(batch_size=8)
    whole = evaluate(run, split="validation", eval_config=eval_config)
    assert "sources" not in whole
    counts = {"none": 0, "only": 1}
    described = workdir.read_description(trained) | {
        "validation_sources": counts,
        "test": {},
        "test_sources": counts,
    }
    monkeypatch.setattr(workdir, "read_description", lambda _: described)
    held_out = evaluate_run.split_of(run, "validation")
    monkeypatch.setattr(evaluate_run, "_split_and_files", lambda *_: (held_out, None))
    for split in ("validation", "test"):
        figures = evaluate(run, split=split, eval_config=eval_config)
        assert figures == whole | {"sources": {"only": whole}}


def test_a_run_answers_questions_of_both_kinds(trained, tmp_path):
    run = load(trained)
    (tmp_path / "choose.jsonl").write_text(
        '{"context": "abc", "choices": ["abd", "zzzz"], "answer": 0}\n' * 2
    )
    task = read_task("choose", TaskConfig(str(tmp_path / "choose.jsonl"), shots=1))
    result = ask(run, task)
    expected = score(run, [task.prompts[0]] * 2, [" abd", " zzzz"]).nats
    assert result.answers[1].nats == pytest.approx(expected, rel=1e-6)
    assert task.prompts[0] == "abc abd\n\nabc" and result.measures["accuracy"] in (0, 1)
    (tmp_path / "match.jsonl").write_text(
        "".join(f'{{"question": "{q}", "answer": "x"}}\n' for q in ("abcab", "c", "ab"))
    )
    config = TaskConfig(
        str(tmp_path / "match.jsonl"), template="{{ question }}", max_new_tokens=4, stop=""
    )
    task = read_task("match", config)
    greedy = SamplesConfig(num_samples=1, temperature=0.0, max_new_tokens=4)
    found = [each.text for each in complete(run, task.prompts, greedy)]
    texts = [answer.text for answer in ask(run, task).answers]
    assert [p + t for p, t in zip(task.prompts, texts, strict=True)] == found


def test_the_test_split_is_measured_from_its_copy_or_from_its_files(trained, tmp_path):
    run, eval_config = load(trained), EvaluationConfig(batch_size=8)
    figures = evaluate(run, split="test", eval_config=eval_config)
    texts = evaluate_texts(run, {"test": ["abdabc" * 300]}, eval_config=eval_config)
    assert figures == texts["test"] and figures["characters"] == 1800
    moved = {"test_path": str(shutil.copy(trained.parent / "test.txt", tmp_path))}
    again = split_of(run, "test", moved)
    np.testing.assert_array_equal(again.tokens, split_of(run, "test").tokens)
    with pytest.raises(UserError, match=r"--data_path=target_path=x: .* reads no data.target_path"):
        split_of(run, "test", {"target_path": "x"})


def test_a_run_without_a_test_split_says_what_to_do(trained, tmp_path):
    (tmp_path / "data.json").write_text('{"validation": {}}')
    run = dataclasses.replace(load(trained), workdir=tmp_path)
    with pytest.raises(UserError, match=r"without a test split; .*data.test_path.* --text=FILES"):
        split_of(run, "test")


def test_pairs_that_moved_are_found_by_the_fields_that_named_them(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    for name in ("a", "b"):
        (old / name).write_text("".join(f"{name} {n}\t{name * n}\n" for n in range(1, 30)))
    config = data.ParallelTextConfig(
        tasks=f"one={old / 'a'}; two={old / 'b'}",
        tokenizer=data.TokenizerConfig("byte"),
        drop_near_copies=False,
    )
    dataset = prepare(config)
    (tmp_path / "data.json").write_text(json.dumps(dataset.description))
    dataset.tokenizer.save(tmp_path / "tokenizer")
    built = SimpleNamespace(experiment=SimpleNamespace(data=config))
    run = Run(tmp_path, built, dataset.tokenizer, 1, None)
    old.rename(new)
    with pytest.raises(UserError, match="no file matches .* with --data_path=tasks=PATH$"):
        split_of(run, "train")
    with pytest.raises(UserError, match="--data_path=path=x: .* reads no data.path"):
        split_of(run, "train", {"path": "x"})
    found = split_of(run, "train", {"tasks": f"one={new / 'a'}; two={new / 'b'}"})
    assert found.texts == dataset.train.texts


def test_the_loss_by_position_sums_to_that_of_the_split(trained):
    run = load(trained)
    for stride in (0, 8):
        eval_config = EvaluationConfig(batch_size=8, stride=stride)
        sums = evaluate_by_position(run, split="validation", eval_config=eval_config)
        figures = evaluate(run, split="validation", eval_config=eval_config)
        assert sums.tokens.sum() == figures["tokens"] and len(sums.tokens) == 32
        assert sums.nats.sum() == pytest.approx(figures["nats"], rel=1e-12)
    assert sums.tokens[31] > sums.tokens[0]  # with a stride most have others before them
    masked = dataclasses.replace(run.built.experiment, objective="masked_lm")
    masked = dataclasses.replace(
        run, built=run.built._replace(experiment=masked, objective=objective_of(masked))
    )
    with pytest.raises(UserError, match="is trained for masked_lm; the loss by position is of"):
        evaluate_by_position(masked, split="validation", eval_config=eval_config)


def test_text_in_the_tokens_of_another_tokenizer_is_refused(trained, monkeypatch, tmp_path):
    run, train_tokenizer = load(trained), pipeline.train_tokenizer
    another = lambda config, texts: train_tokenizer(  # noqa: E731
        dataclasses.replace(config, vocab_size=265), texts
    )
    monkeypatch.setattr(pipeline, "train_tokenizer", another)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="another tokenizer"):
        evaluate(run, split="train", eval_config=EvaluationConfig(batch_size=8))


def test_a_run_is_evaluated_without_its_training_text(trained, tmp_path):
    directory = shutil.copytree(trained, tmp_path / "run")
    config = json.loads((directory / "config.json").read_text())
    place = config["data"]["path"]
    elsewhere = tmp_path / "elsewhere"  # where a stranger's configuration may want to write
    config["data"] |= {"path": str(tmp_path / "gone.txt"), "cache_directory": str(elsewhere)}
    (directory / "config.json").write_text(json.dumps(config))
    run, eval_config = load(directory), EvaluationConfig(batch_size=8)
    figures = evaluate(run, split="validation", eval_config=eval_config)
    written = json.loads((trained / "evaluation.json").read_text())["validation"]
    assert figures["cross_entropy"] == pytest.approx(written["cross_entropy"], rel=1e-5)
    with pytest.raises(UserError, match=r"no file matches .*gone.txt.* with --data_path=PATH"):
        evaluate(run, split="train", eval_config=eval_config)

    copy, again = split_of(run, "validation"), split_of(run, "validation", {"path": place})
    np.testing.assert_array_equal(copy.tokens, again.tokens)
    assert not elsewhere.exists()
    (tmp_path / "other.txt").write_text("abcabd" * 3999)
    with pytest.raises(UserError, match="the data changed since .* with --data_path=PATH"):
        split_of(run, "train", {"path": str(tmp_path / "other.txt")})
    shutil.rmtree(directory / "validation")  # as earlier versions left a run
    with pytest.raises(UserError, match=r"no file matches .*gone.txt.* with --data_path=PATH"):
        evaluate(run, split="validation", eval_config=eval_config)


def test_a_large_split_is_not_copied_and_a_damaged_copy_is_not_read(trained, tmp_path, monkeypatch):
    config = workdir.read_experiment(trained).data
    dataset = prepare(config)
    monkeypatch.setattr(data, "_LARGEST_COPY", 100)
    data.save_held_out(config, dataset, tmp_path)
    assert not list(tmp_path.iterdir())
    shutil.copytree(trained / "validation", tmp_path / "validation")
    (tmp_path / "validation" / "validation_tokens.npy").write_bytes(b"")
    assert data.load_held_out(config, tmp_path, "validation") is None


def test_a_finished_run_only_returns_what_it_came_to(trained):
    experiment = workdir.read_experiment(trained)
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert train(experiment, trained)["step"] == 10
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_the_same_text_at_another_place_continues_a_run(trained, tmp_path):
    experiment = workdir.read_experiment(trained)
    shutil.copytree(trained, tmp_path / "run")
    moved = shutil.copy(experiment.data.path, tmp_path / "moved.txt")
    experiment.data.path, experiment.data.cache_directory = str(moved), str(tmp_path / "cache")
    experiment.training.log_every_steps = 3
    assert train(experiment, tmp_path / "run")["step"] == 10
    experiment.data.path = str(tmp_path / "gone.txt")
    with pytest.raises(UserError, match="no file matches .*gone.txt.*let data.path name its new"):
        train(experiment, tmp_path / "run")
    with pytest.raises(UserError, match="no file matches .* or a pattern$"):
        train(experiment, tmp_path / "another")


def test_a_state_whose_validation_loss_is_no_number_is_not_saved(tmp_path):
    experiment = tiny(training__num_steps=1, schedule__warmup_steps=0, mesh="auto")
    experiment.model.num_layers = 1
    experiment.data.tokenizer = TokenizerConfig("byte")
    experiment.schedule.peak_learning_rate = 1e38
    experiment.optimizer.name = "sgd"
    with pytest.raises(UserError, match="validation loss of step 1 is not a number"):
        train(experiment, tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint"):
        load(tmp_path)
