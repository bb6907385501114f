"""How a model generates, as JSON: its next-token predictions, and the tree of its beam search."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax import data
from lm_jax.build import BuiltExperiment
from lm_jax.generation.beam_tree import BeamNode, beam_tree
from lm_jax.generation.decode_loop import EncoderInput
from lm_jax.generation.generate import TextGenerator, most_probable_tokens, search_beams
from lm_jax.generation.prompts import encode_prompts, num_new_tokens
from lm_jax.models import Variables

_STEPS = 12  # last tokens of the text whose predictions are kept


class _Context(NamedTuple):
    """What the decoder and the encoder read."""

    tokens: list[int]
    source: EncoderInput | None
    num_source: int  # leading tokens that belong to the source of a pair


def analyse_generation(
    built: BuiltExperiment,
    variables: Variables,
    tokenizer: data.Tokenizer,
    example: Mapping[str, Any],
    name: Callable[[int], str],
) -> dict[str, Any]:
    """Returns `next_tokens`, and `beams` where the experiment's samples use beam search.

    The text is `samples.prompt`, or the example where the prompt is empty. A model with an encoder
    takes the prompt as its source, and the text is the best that the search finds.

    Args:
      built: the experiment, with a model that generates.
      variables: the model's variables.
      tokenizer: the tokenizer of the data.
      example: one text [1, T] or pair [1, T] and [1, S], with `inputs` and `targets`.
      name: the label of a token.
    """
    samples, end = built.experiment.samples, tokenizer.end_of_document
    generator = TextGenerator(built, variables, tokenizer)
    context = _context(built, tokenizer, example)
    analysis: dict[str, Any] = {}
    tree = None
    if samples.num_beams > 1 or (context.source is not None and samples.prompt):
        num_new = num_new_tokens(built, len(context.tokens), samples.max_new_tokens)
        beams = search_beams(generator, [context.tokens], num_new, samples, context.source)
        tree = beam_tree(beams, 0, len(context.tokens), end)
    if tree is not None and samples.num_beams > 1:
        analysis["beams"] = tree_nodes(tree, name)
    if not samples.prompt:
        shown = slice(context.num_source + _STEPS)
        inputs, targets = (np.asarray(example[key])[0, shown] for key in ("inputs", "targets"))
        text, origin = [*inputs.tolist(), int(targets[-1])], "a held-out text"
    elif tree is not None and context.source is not None:
        text = [*context.tokens, *_best_text(tree)][: _STEPS + 1]
        origin = "the best text found for the source"
    else:
        text, origin = [*context.tokens, None], "the prompt of the samples"
    steps = _predictions(generator, text, context.source, name)[-_STEPS:]
    source = _source_labels(context.source, name)
    return analysis | {"next_tokens": {"text": origin, "source": source, "steps": steps}}


def _context(
    built: BuiltExperiment, tokenizer: data.Tokenizer, example: Mapping[str, Any]
) -> _Context:
    """Returns the encoded prompt, or without a prompt what precedes the target of the example."""
    prompt = built.experiment.samples.prompt
    encoded = encode_prompts(built, tokenizer, [prompt])
    tokens, source = encoded.tokens[0], encoded.source
    if prompt:
        return _Context(tokens, source, 0)
    if source is not None:
        source = {key: np.asarray(example[key]) for key in ("source", "source_segments")}
    elif encoded.num_hidden[0] > 1:  # a pair as one text
        first = int(np.asarray(example["weights"])[0].argmax())
        return _Context(np.asarray(example["inputs"])[0, : first + 1].tolist(), None, first)
    return _Context(tokens, source, 0)


def tree_nodes(tree: BeamNode, name: Callable[[int], str]) -> list[dict[str, Any]]:
    """Returns a tree as a list in preorder; a chain of single children becomes one node.

    The first node is the root, with `parent` -1. Siblings are sorted by probability.
    """
    found: list[dict[str, Any]] = []
    waiting = [(tree, -1)]
    while waiting:
        node, parent = waiting.pop()
        chain = [node]
        while parent >= 0 and len(chain[-1].children) == 1 and chain[-1].rank is None:
            chain.append(chain[-1].children[0])
        last = chain[-1]
        found.append(
            {
                "parent": parent,
                "tokens": [name(part.token) for part in chain],
                "log_probability": round(last.log_probability, 3),
                "rank": last.rank,
                "score": None if last.score is None else round(last.score, 4),
            }
        )
        waiting += [(child, len(found) - 1) for child in reversed(last.children)]
    return found


def _best_text(tree: BeamNode) -> list[int]:
    """Returns the tokens of the best text of a search, its end included; [] without a text."""
    waiting: list[tuple[BeamNode, list[int]]] = [(tree, [])]
    while waiting:
        node, path = waiting.pop()
        if node.rank == 0:
            return path
        waiting += [(child, [*path, child.token]) for child in node.children]
    return []


def _predictions(
    generator: TextGenerator,
    text: Sequence[Any],
    source: EncoderInput | None,
    name: Callable[[int], str],
) -> list[dict[str, Any]]:
    """Returns the most probable tokens `after` each token but the last, and the `next` token."""
    best, probabilities = most_probable_tokens(generator, text[:-1], source)
    return [
        {
            "after": name(token),
            "next": None if following is None else name(following),
            "tokens": [name(other) for other in others],
            "probabilities": [round(probability, 4) for probability in row],
        }
        for token, following, others, row in zip(
            text[:-1], text[1:], best.tolist(), probabilities.tolist(), strict=True
        )
    ]


def _source_labels(source: EncoderInput | None, name: Callable[[int], str]) -> list[str]:
    if source is None:
        return []
    is_text = np.asarray(source["source_segments"])[0] > 0
    return [name(token) for token in np.asarray(source["source"])[0][is_text].tolist()]
