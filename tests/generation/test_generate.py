"""Texts that a small random model generates from prompts."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.build import build_experiment
from lm_jax.config.experiment import SamplesConfig
from lm_jax.data import TokenizerConfig
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError
from lm_jax.generation import sliding_window
from lm_jax.generation.beam_tree import tree_lines
from lm_jax.generation.generate import (
    TextGenerator,
    complete,
    most_probable_tokens,
    next_tokens,
    search,
)
from lm_jax.generation.prompts import encode_prompts
from lm_jax.models import build_model
from lm_jax.models.transformer.config import EncoderDecoderConfig, TransformerConfig
from lm_jax.objectives import OBJECTIVES
from tests.experiments import tiny
from tests.generation.generating import reader_of_a_source

TOKENIZER = train_tokenizer(TokenizerConfig("byte"), [])
CONFIG = TransformerConfig(TOKENIZER.vocab_size, 32, num_layers=1, d_model=16, num_heads=2)


@pytest.fixture(scope="module")
def generator():
    model = build_model(CONFIG, jnp.float32)
    batch = {"inputs": jnp.zeros((1, 8), jnp.int32)}
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    variables = jax.tree.map(lambda x: 8 * x, variables)
    built = SimpleNamespace(
        model=model,
        objective=OBJECTIVES["causal_lm"],
        experiment=SimpleNamespace(objective="causal_lm", model=CONFIG),
    )
    return TextGenerator(built, variables, TOKENIZER)


def test_a_sample_depends_on_its_prompt_seed_and_number_only(generator):
    config = SamplesConfig(num_samples=2, max_new_tokens=60, temperature=1.0)
    together = complete(generator, ["ab", "The other"], config, seed=3)
    alone = complete(generator, ["The other"], config, seed=3)
    assert [text for text, *_ in together[2:]] == [text for text, *_ in alone]
    assert together[0].text != together[1].text
    assert complete(generator, ["ab"], config, seed=4)[0].text != together[0].text


def test_a_prompt_may_have_no_beginning(generator):
    arguments = (generator.built, TOKENIZER, ["ab", ""])
    assert encode_prompts(*arguments, begins=False)[:2] == ([[97, 98], [256]], [0, 1])
    assert encode_prompts(*arguments)[:2] == ([[256, 97, 98], [256]], [1, 1])
    opened = encode_prompts(generator.built, TOKENIZER._replace(opening=7), ["ab", ""])
    assert opened[:2] == ([[7, 97, 98], [7]], [1, 1])
    config = SamplesConfig(num_samples=1, max_new_tokens=4, temperature=0)
    (found,) = complete(generator, ["ab"], config, begins=False)
    assert found.text.startswith("ab") and found.prompt_characters == 2
    best, _ = most_probable_tokens(generator, [97, 98], count=1)
    assert found.text[2] == chr(best[-1, 0]) or best[-1, 0] >= 128


def test_any_of_the_given_tokens_ends_a_text(generator):
    config = SamplesConfig(num_samples=1, max_new_tokens=4, temperature=0)
    best, _ = most_probable_tokens(generator, [256, 97, 98], count=1)
    (found,) = complete(generator, ["ab"], config, ends=(300, int(best[-1, 0])))
    assert found.text == "ab"


def test_prompts_of_many_lengths_share_a_program(generator):
    config = SamplesConfig(num_samples=1, max_new_tokens=4, temperature=0)
    complete(generator, ["a" * 17], config)
    compiled = sliding_window._begin._cache_size(), sliding_window._advance._cache_size()
    for length in (18, 20, 26):
        complete(generator, ["a" * length], config)
    assert compiled == (sliding_window._begin._cache_size(), sliding_window._advance._cache_size())


def test_a_stop_string_cuts_the_text_before_it_and_counts_its_tokens(generator):
    config = SamplesConfig(num_samples=1, max_new_tokens=20, temperature=0)
    (whole,) = complete(generator, ["ab"], config)
    stop = whole.text[5]
    (cut,) = complete(generator, ["ab"], config, stop=[stop, "nowhere"])
    assert cut.text == whole.text[: whole.text.index(stop, 2)]
    assert whole.log_probability < cut.log_probability < 0


def test_variables_are_prepared_once_a_window_however_often_stop_strings_are_looked_for(
    generator, monkeypatch
):
    model, layered = generator.built.model, generator.built.model.prepare

    def halve(variables):  # twice would give other texts
        return layered(jax.tree.map(lambda x: x / 2, variables))

    built = SimpleNamespace(**vars(generator.built) | {"model": model._replace(prepare=halve)})
    halved = generator._replace(built=built)
    config = SamplesConfig(num_samples=1, max_new_tokens=24, temperature=0)
    (whole,) = complete(halved, ["ab"], config)
    calls, prepare, advance = [], sliding_window._prepare, sliding_window._advance
    for name, function in (("_prepare", prepare), ("_advance", advance)):

        def counted(*given, name=name, function=function, **options):
            calls.append(name)
            return function(*given, **options)

        monkeypatch.setattr(sliding_window, name, counted)
    monkeypatch.setattr(sliding_window, "_CHUNK", 8)
    (stopped,) = complete(halved, ["ab"], config, stop=["nowhere"])
    assert stopped == whole
    assert calls.count("_prepare") == 1 and calls.count("_advance") == 3


def test_beam_search_ranks_texts_by_score_and_returns_its_tree(generator):
    config = SamplesConfig(max_new_tokens=6, num_beams=4, num_best=3, length_penalty=0.0)
    (texts,), (tree,) = search(generator, ["ab"], config)
    scores = [text.score for text in texts]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    assert scores == [text.log_probability for text in texts]
    assert {text.text[: text.prompt_characters] for text in texts} == {"ab"}
    lines = list(tree_lines(tree, str))
    assert sum("* 1, score" in line for line in lines) == 1
    with pytest.raises(UserError, match="ask for at most 29 new tokens"):
        search(generator, ["ab"], SamplesConfig(max_new_tokens=30, num_beams=2))


def test_next_tokens_are_named_with_their_probabilities(generator):
    first, second, third = next_tokens(generator, "ab")
    assert [first.after, second.after, third.after] == ["<end>", "a", "b"]
    assert len(second.tokens) == 10
    alone = next_tokens(generator, "ab", begins=False)
    assert [each.after for each in alone] == ["a", "b"]
    assert alone[0].probabilities != second.probabilities
    assert second.probabilities == sorted(second.probabilities, reverse=True)


def test_the_prompt_of_a_model_with_an_encoder_is_its_source():
    model, variables = reader_of_a_source()
    config = EncoderDecoderConfig(27, context_length=12, source_length=6)
    built = SimpleNamespace(
        model=model,
        objective=OBJECTIVES["seq2seq"],
        experiment=SimpleNamespace(objective="seq2seq", model=config),
    )
    tokenizer = SimpleNamespace(
        vocab_size=27,
        end_of_document=26,
        encode=lambda text: np.array([ord(c) - 97 for c in text], np.int32),
        decode=lambda ids: "".join(chr(97 + i) for i in ids if i != 26),
    )
    generator = TextGenerator(built, variables, tokenizer)
    greedy = SamplesConfig(num_samples=1, temperature=0, max_new_tokens=99)
    one, other = complete(generator, ["hello", "gb"], greedy)
    assert len(one.text) <= 11 and complete(generator, ["gb"], greedy)[0].text == other.text
    assert one.text != other.text
    (best,), _ = search(generator, ["gb"], SamplesConfig(max_new_tokens=99, num_beams=4))
    assert best[0].score >= best[0].log_probability
    with pytest.raises(UserError, match="source 1 is 6 tokens long; the model reads at most 5"):
        complete(generator, ["toolon"], greedy)


def test_a_context_without_room_for_a_new_token_is_named():
    built = build_experiment(tiny(mesh="auto", model__context_length=1), {"vocab_size": 257})
    with pytest.raises(UserError, match="model.context_length is 1, too short for a text"):
        encode_prompts(built, SimpleNamespace(end_of_document=256), [""])
