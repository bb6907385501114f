"""How a model generates, as HTML: its next-token predictions, and the tree of its beam search."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lm_jax.reports.html import render
from lm_jax.reports.svg_tree import tree_chart

_LARGEST_TREE = 600  # nodes; a larger tree is cut down to its finished texts


def next_tokens_section(found: Mapping[str, Any] | None) -> Markup:
    """Returns one card a step with the most probable tokens; empty where nothing was found."""
    if not found:
        return Markup()
    steps = [
        {**step, "rows": list(zip(step["tokens"], step["probabilities"], strict=True))}
        for step in found["steps"]
    ]
    return render("next_tokens.html", text=found["text"], source=found["source"], steps=steps)


def beam_search_section(nodes: Sequence[Mapping[str, Any]] | None) -> Markup:
    """Returns the tree of a beam search, with the best text along its top; empty without nodes."""
    if not nodes:
        return Markup()
    best = _best_below(nodes)
    tree = tree_chart(
        [
            (parent, " ".join(node["tokens"]), _note(node), best[index] == 0)
            for index, parent, node in _best_first(nodes, best)
        ]
    )
    return render("beam_search.html", tree=tree)


def _best_below(nodes: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the rank of the best text below each node; inf where no text was finished."""
    best = [math.inf if node["rank"] is None else node["rank"] for node in nodes]
    for index in range(len(nodes) - 1, 0, -1):
        parent = nodes[index]["parent"]
        best[parent] = min(best[parent], best[index])
    return best


def _best_first(
    nodes: Sequence[Mapping[str, Any]], best: Sequence[float]
) -> list[tuple[int, int, Mapping[str, Any]]]:
    """Returns (index, new index of the parent, node) in preorder, better siblings first."""
    children: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes[1:], 1):
        if best[index] < math.inf or len(nodes) <= _LARGEST_TREE:
            children[node["parent"]].append(index)
    ordered: list[tuple[int, int, Mapping[str, Any]]] = []
    waiting = [(0, -1)]
    while waiting:
        index, parent = waiting.pop()
        ordered.append((index, parent, nodes[index]))
        position = len(ordered) - 1
        for child in sorted(children[index], key=lambda child: best[child], reverse=True):
            waiting.append((child, position))
    return ordered


def _note(node: Mapping[str, Any]) -> str:
    if node["parent"] < 0:
        return ""
    if node["rank"] is None:
        return f"{node['log_probability']:.2f}"
    return f"{node['log_probability']:.2f} #{node['rank'] + 1}, score {node['score']:.3f}"
