"""Beam search beside that of Hugging Face transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.generation.beam_search import EARLY_STOPPING, BeamSearch
from lm_jax.models import build_model
from tests.generation.test_beam_search import END, NEW, VOCAB, fifty_prompts, ours
from tests.parity import hugging_face
from tests.parity.recorded import reference

PADDING = -1


@pytest.fixture(scope="module")
def gpt2():
    pair = hugging_face.ending_gpt2(VOCAB, END)
    return pair.peer, build_model(pair.config, jnp.float32), pair.variables


def theirs(network, prompts, **arguments):
    """Returns the n-best (tokens, score) of prompts of one length, their padding cut off."""
    import torch

    ids = torch.tensor(prompts)
    output = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **arguments,
    )
    length = len(prompts[0])
    best = arguments.get("num_return_sequences", 1)
    texts = [[] for _ in prompts]
    for index, row in enumerate(output.sequences.tolist()):
        new = row[length:]
        kept = length + (new.index(END) + 1 if END in new else len(new))
        if output.get("sequences_scores") is None:  # greedy: only each token's log-probability
            with torch.no_grad():
                logits = network(torch.tensor([row[:kept]])).logits[0, length - 1 : -1]
            log_p = logits.log_softmax(-1)[range(kept - length), row[length:kept]]
            score = log_p.sum() / (kept - length) ** arguments["length_penalty"]
        else:
            score = output.sequences_scores[index]
        texts[index // best].append((row[:kept], float(score)))
    return texts


def recorded(peer, prompts, case, **arguments):
    """Returns the n-best (tokens, score) of each prompt."""
    best = arguments.get("num_return_sequences", 1)

    def compute(_):
        network = peer.build()
        tokens = np.full((len(prompts), best, max(map(len, prompts)) + NEW), PADDING, np.int8)
        scores = np.zeros((len(prompts), best), np.float32)
        for length in sorted(set(map(len, prompts))):
            rows = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
            found = theirs(network, [prompts[i] for i in rows], **arguments)
            for row, texts in zip(rows, found, strict=True):
                for index, (text, score) in enumerate(texts):
                    tokens[row, index, : len(text)] = text
                    scores[row, index] = score
        return {"tokens": tokens, "scores": scores}

    inputs = (prompts, peer.weights())
    found = reference("beam_search", case, compute, inputs, libraries=hugging_face.LIBRARIES)
    return [
        [(text[text != PADDING].tolist(), score) for text, score in zip(*texts, strict=True)]
        for texts in zip(found["tokens"], found["scores"], strict=True)
    ]


def assert_same(found, expected):
    for texts, best in zip(found, expected, strict=True):
        assert [text for text, _, _ in texts] == [text for text, _ in best]
        scores = [[score for _, score, *_ in some] for some in (texts, best)]
        np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("early_stopping", EARLY_STOPPING)
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_four_beams_find_what_hugging_face_finds(gpt2, length_penalty, early_stopping):
    peer, model, variables = gpt2
    prompts = fifty_prompts()
    search = BeamSearch(4, length_penalty, "power", early_stopping)
    expected = recorded(
        peer,
        prompts,
        f"penalty {length_penalty}, stopping {early_stopping}",
        num_beams=4,
        num_return_sequences=4,
        length_penalty=length_penalty,
        early_stopping={"false": False, "true": True}.get(early_stopping, early_stopping),
    )
    assert_same(ours(model, variables, prompts, search), expected)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_one_beam_is_hugging_faces_greedy_search(gpt2, length_penalty):
    peer, model, variables = gpt2
    prompts = fifty_prompts()
    case = f"greedy, penalty {length_penalty}"
    expected = recorded(peer, prompts, case, num_beams=1, length_penalty=length_penalty)
    assert_same(ours(model, variables, prompts, BeamSearch(1, length_penalty)), expected)
