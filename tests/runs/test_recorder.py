import dataclasses
import json

import jax
import pytest

from lm_jax import data
from lm_jax.build import build_experiment
from lm_jax.errors import UserError
from lm_jax.runs.evaluate import evaluate
from lm_jax.runs.recorder import validation_sample
from lm_jax.runs.train import train
from lm_jax.runs.trained_run import load
from lm_jax.training.checkpoints import finished_steps
from tests.experiments import tiny


@pytest.mark.parametrize(
    ("num_steps", "every_steps", "max_tokens", "expected"),
    [
        (10, 0, 0, 131_072),  # the least
        (10_000, 2_500, 0, 3 * 10_000 * 8 * 32 // 10 // 5),  # a tenth, over five evaluations
        (20_000, 0, 0, 262_144),  # the most
        (10, 0, 700, 700),
    ],
)
def test_evaluation_takes_a_tenth_of_the_training(num_steps, every_steps, max_tokens, expected):
    experiment = tiny(
        training__num_steps=num_steps,
        evaluation__every_steps=every_steps,
        evaluation__max_tokens=max_tokens,
    )
    asked = []

    def sample(split, most, tokenizer):
        asked.append(most)

    built = build_experiment(experiment, {"vocab_size": 512}, jax.devices()[:1])
    built = built._replace(objective=built.objective._replace(sample=sample))
    validation_sample(built, data.Dataset(None, None, {}, None))
    assert asked == [expected]


def test_a_run_says_on_what_sample_it_measured_itself(tmp_path, capsys):
    experiment = tiny(mesh="data:8", training__num_steps=10, evaluation__max_tokens=12_000)
    results = train(experiment, tmp_path / "run")
    size = results["validation_sample"]
    assert size["tokens"] <= 12_000 and 0 < size["documents"] < size["of"]
    assert results["validation"]["tokens"] == size["tokens"]
    said = f"measured on {size['documents']:,} of {size['of']:,} validation documents"
    printed = capsys.readouterr().err
    assert said in printed and "rows: stream, 0.0% padding, " in printed
    assert results["packing"]["kind"] == "stream" and results["packing"]["padding"] == 0
    kept = json.loads((tmp_path / "run" / "by_document_validation.json").read_text())
    assert len(kept["documents"]) == len(kept["nats"]) == size["documents"]
    assert "Measured on a fixed sample" in (tmp_path / "run" / "report.html").read_text()
    whole = evaluate(load(tmp_path / "run"), split="validation", eval_config=experiment.evaluation)
    assert whole["tokens"] == size["of_tokens"]


def test_nothing_is_saved_of_a_cache_that_changes_while_a_run_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
    (tmp_path / "text.txt").write_text("a text of some words\n" * 1000)
    experiment = tiny(mesh="data:8", training__num_steps=6, training__steps_per_call=1)
    experiment.checkpoint.every_steps = 2
    experiment.data = dataclasses.replace(
        experiment.data,
        source="files",
        path=str(tmp_path / "text.txt"),
        split="tail",
        drop_repeated_paragraphs=False,
        tokenizer=data.TokenizerConfig("byte"),
        cache_directory=str(tmp_path / "cache"),
    )

    def flip(step):
        if step == 3:
            (path,) = (tmp_path / "cache").glob("*/train_tokens.npy")
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        return False

    with pytest.raises(UserError, match=r"train_tokens.npy changed while it was read"):
        train(experiment, tmp_path / "run", flip)
    assert finished_steps(tmp_path / "run" / "checkpoints") == [2]
    assert train(experiment, tmp_path / "run")["step"] == 6
