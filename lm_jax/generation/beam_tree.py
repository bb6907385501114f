"""The tree that a beam search went through."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lm_jax.generation.beam_search import Beams


class Branch(NamedTuple):
    """A token that a beam held or a text ended with, and what followed it."""

    token: int
    log_probability: float  # nats, of all generated tokens up to this one
    rank: int | None  # of the finished text that ends here, from 0
    score: float | None  # of that text
    branches: list["Branch"]  # most probable first


def beam_tree(beams: Beams, row: int, length: int, end_token: int) -> Branch:
    """The tree of one prompt: its root stands for the prompt.

    Args:
      beams: as numpy arrays.
      length: of the prompt, in tokens.
      end_token: what is shown where a text ended.
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
    for place, scored in enumerate(beams.scores[row].tolist()):
        if scored == -np.inf:
            continue
        text = tuple(beams.tokens[row, place, length : beams.lengths[row, place]].tolist())
        if beams.ended[row, place]:
            text = (*text, end_token)
        paths[text] = float(beams.log_probabilities[row, place])
        ranks[text] = (place, scored)
    root = Branch(int(beams.tokens[row, 0, length - 1]), 0.0, None, None, [])
    nodes: dict[tuple[int, ...], Branch] = {(): root}
    for path in sorted(paths, key=lambda path: (len(path), -paths[path])):
        rank, score = ranks.get(path, (None, None))
        nodes[path] = Branch(path[-1], paths[path], rank, score, [])
        nodes[path[:-1]].branches.append(nodes[path])
    return root


def draw(branch: Branch, name: Callable[[int], str]) -> Iterator[str]:
    """The tree as lines of text, a token a line; finished texts have a star and their rank.

    A token that only one other follows is followed by it on the same line.
    """
    waiting = _lines(branch, "")
    while waiting:
        following, mark, indent = waiting.pop()
        run = [following]
        while len(run[-1].branches) == 1 and run[-1].rank is None:
            run.append(run[-1].branches[0])
        end = run[-1]
        line = f"{' '.join(name(part.token) for part in run)}  {end.log_probability:.2f}"
        if end.rank is not None:
            line += f"  * {end.rank + 1}, score {end.score:.3f}"
        yield f"{indent}{mark}{line}"
        waiting += _lines(end, indent + ("   " if mark == _LAST else "|  "))


_LAST = "`- "


def _lines(branch: Branch, indent: str) -> list[tuple[Branch, str, str]]:
    """What follows a branch, the last first: each with its mark and what stands before that."""
    marks = ["|- "] * (len(branch.branches) - 1) + [_LAST]
    lines = zip(branch.branches, marks, strict=False)
    return [(following, mark, indent) for following, mark in lines][::-1]
