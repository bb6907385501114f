"""Trees as inline SVG, which grow to the right; colours are classes of the page's style sheet."""

from collections.abc import Mapping, Sequence
from html import escape


def tree_chart(nodes: Sequence[tuple[int, str, str, bool]]) -> str:
    """An SVG of a tree that grows to the right: (parent, label, note, highlighted).

    The first node is the root, of parent -1. Each stands after its parent and after all that
    follows its earlier siblings; the first of siblings goes straight on, the others below.
    """
    row, letter, gap, top = 22, 7.3, 20, 18  # letters of a fixed width
    lefts: list[float] = []
    ends: list[float] = []
    straight: dict[int, int] = {}
    for index, (parent, label, note, _) in enumerate(nodes):
        lefts.append(ends[parent] + gap if parent >= 0 else 4.0)
        ends.append(lefts[index] + letter * (len(label) + (len(note) + 1 if note else 0)))
        straight.setdefault(parent, index)
    levels = _levels([parent for parent, *_ in nodes], straight, lefts, ends)
    lines, texts = [], []
    for index, (parent, label, note, strong) in enumerate(nodes):
        style, y = "strong" if strong else "", top + row * levels[index]
        if parent >= 0:
            from_y = top + row * levels[parent] - 4
            path = f"M{ends[parent] + 4:.1f} {from_y}h6V{y - 4}H{lefts[index] - 4:.1f}"
            lines.append(f'<path class="{style}" d="{path}"/>')
        shown = escape(label) + (f'<tspan class="note"> {escape(note)}</tspan>' if note else "")
        texts.append(f'<text class="{style}" x="{lefts[index]:.1f}" y="{y}">{shown}</text>')
    width, height = max(ends) + 10, top + row * max(levels) + 12
    head = f'<svg class="tree" width="{width:.0f}" height="{height}" role="img">'
    return "".join([head, *lines, *texts, "</svg>"])


def _levels(
    parents: Sequence[int],
    straight: Mapping[int, int],
    lefts: Sequence[float],
    ends: Sequence[float],
) -> list[int]:
    """The line that each node of a tree is written on: the first with room for what goes on there.

    `straight` is the child of each node that stays on its line.
    """
    reach = list(ends)
    for index in reversed(range(len(parents))):
        reach[index] = reach[straight[index]] if index in straight else ends[index]
    busy: list[list[tuple[float, float]]] = []  # stretches of each line
    levels: list[int] = []

    def is_free(level: int, left: float, right: float) -> bool:
        return level == len(busy) or all(b < left or right < a for a, b in busy[level])

    for index, parent in enumerate(parents):
        if parent >= 0 and straight[parent] == index:
            levels.append(levels[parent])
            continue
        first = levels[parent] + 1 if parent >= 0 else 0
        level = next(
            level for level in range(first, len(busy) + 1)
            if is_free(level, lefts[index] - 8, reach[index] + 8)
        )  # fmt: skip
        if level == len(busy):
            busy.append([])
        busy[level].append((lefts[index] - 8, reach[index] + 8))
        for crossed in range(first, level):
            busy[crossed].append((lefts[index] - 12, lefts[index] - 8))
        levels.append(level)
    return levels
