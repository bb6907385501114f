"""How a model writes, as HTML: what it expected after each token, and the tree of its search."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lm_jax.reports.svg_tree import tree_chart

_LARGEST_TREE = 600  # nodes; of larger ones only the finished texts are shown


def next_tokens_section(found: Mapping[str, Any] | None) -> str:
    """Cards, one for each step, of the most probable tokens with bars."""
    if not found:
        return ""
    source = ""
    if found["source"]:
        source = f'<p>The source: <span class="tokens">{_tokens(found["source"])}</span></p>'
    cards = "".join(map(_card, found["steps"]))
    return (
        f"<p>After each token of a text, {escape(found['text'])}, the most probable next ones. The "
        "one that does come next is marked; where it is not among them, it is named.</p>"
        f'{source}<div class="steps">{cards}</div>'
    )


def _card(step: Mapping[str, Any]) -> str:
    rows = []
    for token, share in zip(step["tokens"], step["probabilities"], strict=True):
        style = ' class="next"' if token == step["next"] else ""
        rows.append(
            f'<tr{style}><th>{escape(token)}</th><td><i style="width: {100 * share:.1f}%"></i></td>'
            f"<td>{share:.1%}</td></tr>"
        )
    comes = ""
    if step["next"] is not None and step["next"] not in step["tokens"]:
        comes = f", before <b>{escape(step['next'])}</b>"
    return (
        f"<figure><figcaption>after <b>{escape(step['after'])}</b>{comes}</figcaption>"
        f"<table>{''.join(rows)}</table></figure>"
    )


def beams_section(nodes: Sequence[Mapping[str, Any]] | None) -> str:
    """The tree of a beam search, the best text straight along its top."""
    if not nodes:
        return ""
    best = _best_below(nodes)
    chart = tree_chart(
        [
            (parent, " ".join(node["tokens"]), _note(node), best[index] == 0)
            for index, parent, node in _best_first(nodes, best)
        ]
    )
    return (
        "<p>What the search held at any step; the numbers are log-probabilities in nats from the "
        "root on. Texts that it found have a rank and a score; the best one is marked.</p>"
        f'<div class="beams">{chart}</div>'
    )


def _best_below(nodes: Sequence[Mapping[str, Any]]) -> list[float]:
    """The rank of the best text that each node leads to; inf: none."""
    best = [math.inf if node["rank"] is None else node["rank"] for node in nodes]
    for index in range(len(nodes) - 1, 0, -1):
        parent = nodes[index]["parent"]
        best[parent] = min(best[parent], best[index])
    return best


def _best_first(
    nodes: Sequence[Mapping[str, Any]], best: Sequence[float]
) -> list[tuple[int, int, Mapping[str, Any]]]:
    """(number, new number of the parent, node), where better texts come before their siblings."""
    following: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes[1:], 1):
        if best[index] < math.inf or len(nodes) <= _LARGEST_TREE:
            following[node["parent"]].append(index)
    ordered: list[tuple[int, int, Mapping[str, Any]]] = []
    waiting = [(0, -1)]
    while waiting:
        index, parent = waiting.pop()
        ordered.append((index, parent, nodes[index]))
        place = len(ordered) - 1
        for child in sorted(following[index], key=lambda child: best[child], reverse=True):
            waiting.append((child, place))
    return ordered


def _note(node: Mapping[str, Any]) -> str:
    if node["parent"] < 0:
        return ""
    if node["rank"] is None:
        return f"{node['log_probability']:.2f}"
    return f"{node['log_probability']:.2f} #{node['rank'] + 1}, score {node['score']:.3f}"


def _tokens(names: Sequence[str]) -> str:
    return " ".join(map(escape, names))


STYLE = """
.steps { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 10px; }
.steps figcaption { margin-bottom: 6px; } .steps b, .tokens { color: var(--ink);
  font: 600 12px ui-monospace, monospace; } .tokens { font-weight: 400; overflow-wrap: anywhere; }
.steps th, .steps td { border: 0; padding: 0 4px; width: auto; font-size: 12px; line-height: 18px;
  white-space: nowrap; } .steps th { font-family: ui-monospace, monospace; color: var(--ink);
  max-width: 90px; overflow: hidden; text-overflow: ellipsis; }
.steps td:nth-child(2) { width: 100%; } .steps td:last-child { text-align: right;
  color: var(--soft); } .steps i { display: block; height: 10px; min-width: 1px;
  border-radius: 2px; background: var(--faint); }
.steps .next i { background: var(--b); } .steps .next th { font-weight: 700; color: var(--b); }
.beams { overflow: auto; max-height: 520px; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; padding: 8px; } svg.tree { display: block; }
svg.tree text { font-family: ui-monospace, monospace; white-space: pre; }
svg.tree .note { fill: var(--soft); font-weight: 400; } svg.tree path { fill: none;
  stroke: var(--faint); stroke-width: 1.5; } svg.tree path.strong { stroke: var(--b); }
svg.tree text.strong { fill: var(--b); stroke: none; }
"""
