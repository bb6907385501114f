"""What a small random model expects and searches, beside what `generate` returns of it."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.analysis.next_tokens import analyse_generation, tree_nodes
from lm_jax.config.experiment import SamplesConfig
from lm_jax.data import TokenizerConfig
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.generation.beam_tree import BeamNode
from lm_jax.generation.generate import TextGenerator, next_tokens, search
from lm_jax.generation.token_labels import namer
from lm_jax.models import build_model
from lm_jax.models.transformer.config import EncoderDecoderConfig, TransformerConfig
from lm_jax.objectives import OBJECTIVES
from tests.generation.generating import reader_of_a_source

TOKENIZER = train_tokenizer(TokenizerConfig("byte"), [])
CONFIG = TransformerConfig(TOKENIZER.vocab_size, 32, num_layers=1, d_model=16, num_heads=2)


@pytest.fixture(scope="module")
def model():
    model = build_model(CONFIG, jnp.float32)
    batch = {"inputs": jnp.zeros((1, 8), jnp.int32)}
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    return model, jax.tree.map(lambda x: 8 * x, variables)


def name_in(built):
    return namer(TOKENIZER, built.experiment)


def built_with(model, config=CONFIG, objective="causal_lm", **samples):
    experiment = SimpleNamespace(
        objective=objective, model=config, samples=SamplesConfig(**samples)
    )
    return SimpleNamespace(model=model, experiment=experiment, objective=OBJECTIVES[objective])


def test_the_prompt_is_what_follows_and_is_searched_on(model):
    built = built_with(model[0], prompt="ab", num_beams=4, num_best=4, max_new_tokens=6)
    parts = built, model[1], TOKENIZER
    found = analyse_generation(*parts, {"inputs": np.zeros((1, 9), np.int32)}, name_in(built))
    steps = found["next_tokens"]["steps"]
    assert [step["next"] for step in steps] == ["a", "b", None]
    for step, expected in zip(steps, next_tokens(TextGenerator(*parts), "ab"), strict=True):
        assert step["after"] == expected.after and step["tokens"] == expected.tokens
        np.testing.assert_allclose(step["probabilities"], expected.probabilities, atol=1e-4)
    (texts,), _ = search(TextGenerator(*parts), ["ab"], built.experiment.samples)
    ranked = {node["rank"]: node for node in found["beams"] if node["rank"] is not None}
    assert sorted(ranked) == list(range(len(texts)))
    for rank, text in enumerate(texts):
        assert ranked[rank]["score"] == pytest.approx(text.score, abs=1e-3)
        assert ranked[rank]["log_probability"] == pytest.approx(text.log_probability, abs=1e-3)


def test_the_end_of_a_long_prompt_is_shown_and_without_a_prompt_the_example(model):
    built = built_with(model[0], prompt="abcdefghijklmnopq")
    tokens = np.array([[256, *range(97, 127)]])
    example = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    found = analyse_generation(built, model[1], TOKENIZER, example, name_in(built))
    shown = "".join(step["after"] for step in found["next_tokens"]["steps"])
    assert shown == "fghijklmnopq" and "beams" not in found
    found = analyse_generation(built_with(model[0]), model[1], TOKENIZER, example, name_in(built))
    after = [step["after"] for step in found["next_tokens"]["steps"]]
    assert after == ["<end>", *"abcdefghijk"]
    assert [step["next"] for step in found["next_tokens"]["steps"]] == [*after[1:], "l"]


def test_the_target_of_a_pair_as_one_text_is_shown(model):
    built = built_with(model[0], objective="seq2seq")
    tokens = np.array([[*b"the source of it", 256, *b"target", 256]])
    counted = np.arange(tokens.shape[1] - 1) >= 16
    example = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": counted[None]}
    found = analyse_generation(built, model[1], TOKENIZER, example, name_in(built))
    after = [step["after"] for step in found["next_tokens"]["steps"]]
    assert after[-7:] == ["<end>", *"target"]
    assert found["next_tokens"]["steps"][-1]["next"] == "<end>"


SOURCE = np.array([[6, 1, 26]], np.int32)
PAIR = {
    "source": SOURCE,
    "source_segments": np.ones_like(SOURCE),
    "inputs": np.array([[26, 3, 4]]),
    "targets": np.array([[3, 4, 26]]),
}


def of_a_reader(**samples):
    reader, variables = reader_of_a_source()
    config = EncoderDecoderConfig(27, context_length=12, source_length=6)
    tokenizer = SimpleNamespace(
        vocab_size=27,
        end_of_document=26,
        encode=lambda text: np.array([ord(c) - 97 for c in text], np.int32),
    )
    built = built_with(reader, config, max_new_tokens=8, **samples)
    return analyse_generation(built, variables, tokenizer, PAIR, str)


def test_without_a_prompt_a_pair_is_read_with_its_own_target():
    found = of_a_reader()
    steps = found["next_tokens"]["steps"]
    assert found["next_tokens"]["source"] == ["6", "1", "26"] and "beams" not in found
    assert [(step["after"], step["next"]) for step in steps] == [
        ("26", "3"), ("3", "4"), ("4", "26")
    ]  # fmt: skip


@pytest.mark.parametrize("beams", [1, 4])
def test_a_prompt_is_a_source_whose_best_text_is_followed(beams):
    found = of_a_reader(prompt="hi", num_beams=beams)
    steps, tree = found["next_tokens"]["steps"], found.get("beams", [])
    assert found["next_tokens"]["source"] == ["7", "8", "26"] and bool(tree) == (beams > 1)
    assert steps[0]["after"] == "26"
    assert [step["next"] for step in steps[:-1]] == [step["after"] for step in steps[1:]]
    if beams == 1:  # greedy
        assert all(step["next"] == step["tokens"][0] for step in steps)
        return
    (best,) = (node for node in tree if node["rank"] == 0)
    log_p = best["log_probability"]
    path = list(best["tokens"])
    while best["parent"] > 0:
        best = tree[best["parent"]]
        path = best["tokens"] + path
    assert path == [step["next"] for step in steps]
    shares = [dict(zip(s["tokens"], s["probabilities"], strict=True))[s["next"]] for s in steps]
    assert log_p == pytest.approx(np.log(shares).sum(), abs=0.02)


def test_tokens_that_only_one_other_follows_are_one_node():
    leaf = BeamNode(3, -3.0, 0, -1.0, [])
    other = BeamNode(4, -4.0, None, None, [])
    tree = BeamNode(0, 0.0, None, None, [BeamNode(1, -1.0, None, None, [
        BeamNode(2, -2.0, None, None, [leaf, other])])])  # fmt: skip
    assert [(n["parent"], n["tokens"], n["rank"]) for n in tree_nodes(tree, str)] == [
        (-1, ["0"], None),
        (0, ["1", "2"], None),
        (1, ["3"], 0),
        (1, ["4"], None),
    ]
