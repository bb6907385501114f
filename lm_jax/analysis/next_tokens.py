"""How a model writes, as JSON: what it expects step by step, and the tree of its beam search."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax import data
from lm_jax.build import BuiltExperiment
from lm_jax.generation.beam_tree import BeamNode, beam_tree
from lm_jax.generation.generate import TextGenerator, most_probable_tokens, search_beams
from lm_jax.generation.prompts import encode_prompts, num_new_tokens
from lm_jax.models import Variables

_STEPS = 12  # tokens after which the expectations are kept


def generation(
    built: BuiltExperiment,
    variables: Variables,
    tokenizer: data.Tokenizer,
    example: Mapping[str, Any],
    name: Callable[[int], str],
) -> dict[str, Any]:
    """`next_tokens` of a model that generates, and `beams` where its samples are searched for.

    The text is the experiment's `samples.prompt`; of a model that reads a source the prompt is the
    source, and the text the best that the search finds. Without a prompt it is the example.

    Args:
      example: one text or pair, [1, T] and [1, S], its `inputs` and `targets` included.
      name: of a token, as people should see it.
    """
    samples, end = built.experiment.samples, tokenizer.end_of_document
    generator = TextGenerator(built, variables, tokenizer)
    encoded = encode_prompts(built, tokenizer, [samples.prompt])
    begin, source = encoded.tokens[0], encoded.source
    first = 0  # of the text whose next tokens are shown
    if source is not None and not samples.prompt:
        source = {key: np.asarray(example[key]) for key in ("source", "source_segments")}
    elif encoded.num_hidden[0] > 1 and not samples.prompt:  # a pair as one text, up to its target
        first = int(np.asarray(example["weights"])[0].argmax())
        begin = np.asarray(example["inputs"])[0, : first + 1].tolist()
    findings: dict[str, Any] = {}
    tree = None
    if samples.num_beams > 1 or (source is not None and samples.prompt):
        num_new = num_new_tokens(built, len(begin), samples.max_new_tokens)
        beams = search_beams(generator, [begin], num_new, samples, source)
        tree = beam_tree(beams, 0, len(begin), end)
    if tree is not None and samples.num_beams > 1:
        findings["beams"] = nodes(tree, name)
    if not samples.prompt:
        inputs, targets = (
            np.asarray(example[key])[0, : first + _STEPS] for key in ("inputs", "targets")
        )
        text = [*inputs.tolist(), int(targets[-1])]
        of = "a held-out one"
    elif tree is not None and source is not None:
        text, of = [*begin, *_best(tree)][: _STEPS + 1], "the best that was found for its source"
    else:
        text, of = [*begin, None], "the prompt of the samples"
    steps = _steps(generator, text, source, name)[-_STEPS:]
    names = []
    if source is not None:
        is_text = np.asarray(source["source_segments"])[0] > 0
        names = [name(token) for token in np.asarray(source["source"])[0][is_text].tolist()]
    return findings | {"next_tokens": {"text": of, "source": names, "steps": steps}}


def nodes(tree: BeamNode, name: Callable[[int], str]) -> list[dict[str, Any]]:
    """A tree as a list, each node after its `parent`; tokens that only one other follows are one.

    The first is the root; the children of a node are in the order of their probability.
    """
    found: list[dict[str, Any]] = []
    waiting = [(tree, -1)]
    while waiting:
        branch, parent = waiting.pop()
        run = [branch]
        while parent >= 0 and len(run[-1].children) == 1 and run[-1].rank is None:
            run.append(run[-1].children[0])
        last = run[-1]
        found.append(
            {
                "parent": parent,
                "tokens": [name(part.token) for part in run],
                "log_probability": round(last.log_probability, 3),
                "rank": last.rank,
                "score": None if last.score is None else round(last.score, 4),
            }
        )
        waiting += [(following, len(found) - 1) for following in reversed(last.children)]
    return found


def _best(tree: BeamNode) -> list[int]:
    """The tokens of the best text of a search, its end included."""
    waiting: list[tuple[BeamNode, list[int]]] = [(tree, [])]
    while waiting:
        branch, path = waiting.pop()
        if branch.rank == 0:
            return path
        waiting += [(following, [*path, following.token]) for following in branch.children]
    return []


def _steps(
    generator: TextGenerator,
    text: Sequence[Any],
    source: Any,
    name: Callable[[int], str],
) -> list[dict[str, Any]]:
    """What is expected after each token of a text but the last, and the `next` one that it has."""
    best, shares = most_probable_tokens(generator, text[:-1], source)
    return [
        {
            "after": name(token),
            "next": None if following is None else name(following),
            "tokens": [name(other) for other in others],
            "probabilities": [round(share, 4) for share in probabilities],
        }
        for token, following, others, probabilities in zip(
            text[:-1], text[1:], best.tolist(), shares.tolist(), strict=True
        )
    ]
