"""The tree of all beams of a search."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lm_jax.generation.beam_search import Beams


class BeamNode(NamedTuple):
    """A token of a beam or the end of a text, with the tokens that followed it."""

    token: int
    log_probability: float  # sum over all generated tokens up to this one, in nats
    rank: int | None  # rank, from 0, of the finished text that ends here
    score: float | None  # score of that text
    children: list["BeamNode"]  # most probable first


def beam_tree(beams: Beams, row: int, length: int, end_token: int) -> BeamNode:
    """Returns the tree of one prompt; its root stands for the prompt.

    Args:
      beams: as NumPy arrays.
      row: index of the prompt.
      length: tokens in the prompt.
      end_token: the token of the node where a text ended.
    """
    steps = [part[row] for part in beams.steps]
    tokens, parents, log_p = steps
    paths: dict[tuple[int, ...], float] = {}
    before: list[tuple[int, ...]] = [()] * tokens.shape[1]
    for column in range(length, tokens.shape[0]):
        now = [
            (*before[parent], int(token)) if token >= 0 else ()
            for token, parent in zip(tokens[column], parents[column], strict=True)
        ]
        paths |= {path: float(p) for path, p in zip(now, log_p[column], strict=True) if path}
        before = now
    ranks: dict[tuple[int, ...], tuple[int | None, float | None]] = {}
    for rank, score in enumerate(beams.scores[row].tolist()):
        if score == -np.inf:
            continue
        text = tuple(beams.tokens[row, rank, length : beams.lengths[row, rank]].tolist())
        if beams.ended[row, rank]:
            text = (*text, end_token)
        paths[text] = float(beams.log_probabilities[row, rank])
        ranks[text] = (rank, score)
    root = BeamNode(int(beams.tokens[row, 0, length - 1]), 0.0, None, None, [])
    nodes: dict[tuple[int, ...], BeamNode] = {(): root}
    for path in sorted(paths, key=lambda path: (len(path), -paths[path])):
        nodes[path] = BeamNode(path[-1], paths[path], *ranks.get(path, (None, None)), [])
        nodes[path[:-1]].children.append(nodes[path])
    return root


def tree_lines(root: BeamNode, label: Callable[[int], str]) -> Iterator[str]:
    """Yields the tree as lines of text; finished texts have a star and their rank.

    Tokens without an alternative share the line of the token before them.
    """
    waiting = _child_lines(root, "")
    while waiting:
        node, mark, indent = waiting.pop()
        run = [node]
        while len(run[-1].children) == 1 and run[-1].rank is None:
            run.append(run[-1].children[0])
        end = run[-1]
        line = f"{' '.join(label(node.token) for node in run)}  {end.log_probability:.2f}"
        if end.rank is not None:
            line += f"  * {end.rank + 1}, score {end.score:.3f}"
        yield f"{indent}{mark}{line}"
        waiting += _child_lines(end, indent + ("   " if mark == _LAST else "|  "))


_LAST = "`- "


def _child_lines(node: BeamNode, indent: str) -> list[tuple[BeamNode, str, str]]:
    """Returns the children of a node, last first, each with its mark and indentation."""
    marks = ["|- "] * (len(node.children) - 1) + [_LAST]
    lines = zip(node.children, marks, strict=False)
    return [(child, mark, indent) for child, mark in lines][::-1]
