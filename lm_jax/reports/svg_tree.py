"""Trees that grow to the right, as inline SVG; colours are classes of the page's style sheet."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from lm_jax.reports.html import render

_ROW, _LETTER, _GAP, _TOP = 22, 7.3, 20, 18  # letters have a fixed width


def tree_chart(nodes: Sequence[tuple[int, str, str, bool]]) -> Markup:
    """Returns an SVG of a tree: nodes (parent, label, note, highlighted).

    The first node is the root, with parent -1. A node comes after its parent and after all
    descendants of its earlier siblings. The first sibling stays on its parent's line, the others
    go below.
    """
    lefts: list[float] = []
    ends: list[float] = []
    straight: dict[int, int] = {}
    for index, (parent, label, note, _) in enumerate(nodes):
        lefts.append(ends[parent] + _GAP if parent >= 0 else 4.0)
        ends.append(lefts[index] + _LETTER * (len(label) + (len(note) + 1 if note else 0)))
        straight.setdefault(parent, index)
    levels = _levels([parent for parent, *_ in nodes], straight, lefts, ends)
    lines, texts = [], []
    for index, (parent, label, note, is_strong) in enumerate(nodes):
        style, y = "strong" if is_strong else "", _TOP + _ROW * levels[index]
        if parent >= 0:
            from_y = _TOP + _ROW * levels[parent] - 4
            path = f"M{ends[parent] + 4:.1f} {from_y}h6V{y - 4}H{lefts[index] - 4:.1f}"
            lines.append((style, path))
        texts.append((style, lefts[index], y, label, note))
    width, height = max(ends) + 10, _TOP + _ROW * max(levels) + 12
    return render("svg/tree.svg", width=width, height=height, lines=lines, texts=texts)


def _levels(
    parents: Sequence[int],
    straight: Mapping[int, int],
    lefts: Sequence[float],
    ends: Sequence[float],
) -> list[int]:
    """Returns the text line of each node: the first one with room for the node's straight path.

    Args:
      parents: [N].
      straight: the child of each node that stays on the node's line.
      lefts: [N], where each node begins.
      ends: [N], where each node ends.
    """
    reach = list(ends)
    for index in reversed(range(len(parents))):
        reach[index] = reach[straight[index]] if index in straight else ends[index]
    busy: list[list[tuple[float, float]]] = []  # occupied stretches of each line
    levels: list[int] = []

    def is_free(level: int, left: float, right: float) -> bool:
        return level == len(busy) or all(b < left or right < a for a, b in busy[level])

    for index, parent in enumerate(parents):
        if parent >= 0 and straight[parent] == index:
            levels.append(levels[parent])
            continue
        first = levels[parent] + 1 if parent >= 0 else 0
        level = next(
            level
            for level in range(first, len(busy) + 1)
            if is_free(level, lefts[index] - 8, reach[index] + 8)
        )
        if level == len(busy):
            busy.append([])
        busy[level].append((lefts[index] - 8, reach[index] + 8))
        for crossed in range(first, level):
            busy[crossed].append((lefts[index] - 12, lefts[index] - 8))
        levels.append(level)
    return levels
