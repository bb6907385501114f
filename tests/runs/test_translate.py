"""Trains a tiny encoder-decoder on pairs, loads it, translates and scores."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from launch import program
from launch import translate as translate_program
from lm_jax.build import build_experiment
from lm_jax.config.experiment import EvaluationConfig, SamplesConfig
from lm_jax.data import ParallelTextConfig, TokenizerConfig, prepare, save_held_out
from lm_jax.data.seq2seq.config import SymbolsConfig
from lm_jax.errors import UserError
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.reports.numbers import with_error
from lm_jax.runs import train as trainer
from lm_jax.runs.evaluate import evaluate
from lm_jax.runs.trained_run import load
from lm_jax.runs.translate import held_out_pairs, translate
from lm_jax.training.state import init_state, variables_of
from tests.experiments import tiny

GREEDY = SamplesConfig(num_beams=1)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    device = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: device)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_device):
    config = tiny(
        objective="seq2seq",
        model=RecurrentSeq2SeqConfig(source_length=24, context_length=24, d_hidden=32),
        data=ParallelTextConfig(
            source="copy",
            symbols=SymbolsConfig(num_symbols=4, num_training_pairs=2000, longest=5,
                                  num_validation_pairs=60),
            tokenizer=TokenizerConfig("whitespace", 100),
        ),
        mesh="auto",
    )  # fmt: skip
    config.training.num_steps, config.training.batch_size = 150, 16
    config.training.steps_per_call, config.schedule.peak_learning_rate = 25, 1e-2
    config.samples.num_samples, config.samples.temperature = 1, 0.0
    directory = tmp_path_factory.mktemp("runs") / "copy"
    results = trainer.train(config, directory)
    assert results["validation"]["accuracy"] > 0.95
    return load(directory, log=lambda line: None)


def test_evaluation_of_a_run_on_pairs_repeats_its_figures(run):
    results = json.loads((run.workdir / "evaluation.json").read_text())["validation"]
    again = evaluate(run, split="validation", eval_config=EvaluationConfig(batch_size=8))
    assert again["cross_entropy"] == pytest.approx(results["cross_entropy"], abs=1e-5)
    assert again["documents"] == results["documents"] > 10


def test_a_run_on_pairs_shows_how_it_translates_one(run):
    analysis = json.loads((run.workdir / "inspection.json").read_text())
    cross, following = analysis["attention"]["cross"], analysis["next_tokens"]
    assert cross["read"] == following["source"] and cross["read"][-1] == "<end>"
    assert cross["readers"][1:] == cross["read"][:-1]  # it copies
    written = [step["next"] for step in following["steps"]]
    assert written == cross["read"]
    assert all(step["next"] == step["tokens"][0] for step in following["steps"])


def test_the_pairs_of_the_test_split_are_translated_where_they_are_asked_for(run, tmp_path):
    for name in ("train", "test"):
        rows = "".join(f"{name} {n}\t{n} {name}\n" for n in range(30))
        (tmp_path / f"{name}.tsv").write_text(rows)
    paths = {"path": str(tmp_path / "train.tsv"), "test_path": str(tmp_path / "test.tsv")}
    config = ParallelTextConfig(**paths, tokenizer=TokenizerConfig("byte"), drop_near_copies=False)
    dataset = prepare(config)
    save_held_out(config, dataset, tmp_path)
    (tmp_path / "data.json").write_text(json.dumps(dataset.description))
    experiment = dataclasses.replace(run.built.experiment, data=config)
    tested = dataclasses.replace(
        run, workdir=tmp_path, built=run.built._replace(experiment=experiment)
    )
    sources, targets = held_out_pairs(tested, "test")
    assert (sources[0], targets[0], len(sources)) == ("test 0", "0 test", 30)
    assert not set(sources) & set(held_out_pairs(tested)[0])
    with pytest.raises(UserError, match="was trained without a test split"):
        held_out_pairs(run, "test")


def test_a_run_on_pairs_keeps_translations_and_their_scores(run):
    examples = json.loads((run.workdir / "inspection.json").read_text())["translations"]
    scores = json.loads((run.workdir / "evaluation.json").read_text())["translation"]
    sources, references = held_out_pairs(run)
    found = {s: t.text for s, t in zip(sources, translate(run, sources, GREEDY), strict=True)}
    assert len(examples) == 8 and scores["sentences"] == len(sources)
    assert all(row["translation"] == found[row["source"]] for row in examples)
    pairs = set(zip(sources, references, strict=True))
    assert all((row["source"], row["reference"]) in pairs for row in examples)
    right = [found[s] == r for s, r in zip(sources, references, strict=True)]
    assert scores["exact_match"] == pytest.approx(100 * np.mean(right))


def test_translations_have_the_probability_that_the_model_gives_them(run):
    sources, targets = held_out_pairs(run)
    found = translate(run, sources, GREEDY, batch_size=7)
    assert np.mean([t.text == target for t, target in zip(found, targets, strict=True)]) > 0.9
    tokenizer, end = run.tokenizer, run.tokenizer.end_of_document
    loss = jax.jit(run.built.model.loss, static_argnames="train")
    for source, translation in list(zip(sources, found, strict=True))[:10]:
        read = np.array([*tokenizer.encode(source), end])
        said = np.array([*tokenizer.encode(translation.text), end])
        batch = {
            "source": read[None],
            "source_segments": np.ones_like(read[None]),
            "source_positions": np.arange(len(read))[None],
            "inputs": np.append(end, said[:-1])[None],
            "targets": said[None],
            "weights": np.ones((1, len(said)), np.float32),
            "segments": np.ones_like(said[None]),
            "positions": np.arange(len(said))[None],
        }
        losses = loss(run.variables, jax.tree.map(np.asarray, batch), train=False)
        assert translation.log_probability == pytest.approx(-float(losses[0].nats.sum()), abs=1e-3)


def test_beams_find_nothing_less_probable_and_batches_change_nothing(run):
    sources, _ = held_out_pairs(run)
    search = SamplesConfig(num_beams=4, length_penalty=0.0)
    greedy = translate(run, sources, GREEDY)
    some, others = (translate(run, sources, search, batch_size=n) for n in (5, 64))
    assert [t.text for t in some] == [t.text for t in others]
    assert all(a.score >= b.log_probability - 1e-4 for a, b in zip(some, greedy, strict=True))


def test_sources_that_cannot_be_read_are_refused(run):
    with pytest.raises(UserError, match="source 2 is empty"):
        translate(run, ["a b", ""], GREEDY)
    with pytest.raises(UserError, match="source 1 is 24 tokens long; the model reads at most 23"):
        translate(run, ["a " * 24], GREEDY)
    assert translate(run, ["a " * 24], GREEDY, truncate=True)[0].text


def test_the_program_scores_and_writes(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "in.tsv").write_text("a b c\ta b c\nd c\td d\n")
    arguments = [
        "translate", f"--workdir={run.workdir}", f"--input={tmp_path / 'in.tsv'}",
        f"--output={tmp_path / 'out.tsv'}", "--num_beams=2",
        "--bleu_tokenizer=intl",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as exited:
        program.run(translate_program.main)
    assert exited.value.code == 0
    shown = capsys.readouterr()
    results = json.loads(shown.out.splitlines()[-1])
    assert results["exact_match"] == 50 and results["sentences"] == 2
    assert "tok:intl|" in results["bleu_signature"]
    (row,) = (line for line in shown.out.splitlines() if line.startswith("bleu "))
    assert row.endswith(results["bleu_signature"])
    error = results["bleu_standard_error"]
    assert f" {with_error(results['bleu'], error, '.2f')} " in row
    if error:
        assert float(row.split("±")[1].split()[0]) > 0
    rows = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert rows[0][0] == rows[0][1] == rows[0][3] == "a b c" and float(rows[0][2]) < 0


def test_a_decoder_alone_reads_a_source_and_then_writes(run):
    """Greedy search beside the argmax of the whole text, source, end and target."""
    model = TransformerConfig(context_length=24, num_layers=1, d_model=16, num_heads=2)
    experiment = dataclasses.replace(run.built.experiment, model=model)
    sizes = {"vocab_size": run.tokenizer.vocab_size}
    built = build_experiment(experiment, sizes, jax.devices())
    state = init_state(built.model, built.optimizer, built.example, built.mesh, 0)
    variables = jax.tree.map(lambda x: 4 * x, variables_of(state))  # so that no two are as probable
    decoder = dataclasses.replace(run, built=built, variables=variables)
    sources, end = held_out_pairs(run)[0][:2], run.tokenizer.end_of_document
    apply = jax.jit(built.model.apply, static_argnames="train")
    for source, found in zip(sources, translate(decoder, sources, GREEDY), strict=True):
        tokens, log_probability = [end, *run.tokenizer.encode(source), end], 0.0
        first = len(tokens)
        while len(tokens) < 24 and (len(tokens) == first or tokens[-1] != end):
            padded = np.array([tokens + [0] * (24 - len(tokens))])
            logits, _ = apply(variables, {"inputs": padded}, train=False)
            log_p = np.asarray(jax.nn.log_softmax(logits[0, len(tokens) - 1]))
            tokens.append(int(log_p.argmax()))
            log_probability += log_p.max()
        said = [token for token in tokens[first:] if token != end]
        assert found.text == run.tokenizer.decode(said)
        assert found.log_probability == pytest.approx(log_probability, abs=1e-3)
    with pytest.raises(UserError, match="source 1 is 24 tokens long; the model reads at most 21"):
        translate(decoder, ["a " * 24], GREEDY)


@pytest.mark.slow
def test_a_decoder_alone_learns_pairs_as_one_text(run, tmp_path):
    config = dataclasses.replace(
        run.built.experiment,
        model=TransformerConfig(
            context_length=24, num_layers=2, d_model=32, num_heads=2, positions="rotary"
        ),
        training=dataclasses.replace(run.built.experiment.training, num_steps=400),
    )
    results = trainer.train(config, tmp_path / "run")
    assert results["validation"]["accuracy"] > 0.95
    decoder = load(tmp_path / "run")
    sources, targets = held_out_pairs(decoder)
    for search in (GREEDY, SamplesConfig(num_beams=3)):
        found = translate(decoder, sources, search)
        assert np.mean([t.text == target for t, target in zip(found, targets, strict=True)]) > 0.8
    samples = (tmp_path / "run" / "samples.txt").read_text().splitlines()
    assert samples[1] in sources and samples[2].startswith("-> ")
    with pytest.raises(UserError, match="source 1 is 24 tokens long; the model reads at most 21"):
        translate(decoder, ["a " * 24], GREEDY)
    assert translate(decoder, ["a " * 24], GREEDY, truncate=True)[0].text
