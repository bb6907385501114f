"""Trees take as few lines as their labels allow."""

import re

from lm_jax.reports.svg_tree import tree_chart


def test_branches_of_a_tree_share_lines_where_they_have_room():
    trunk = [(-1, "root", "", True)] + [(at, "along", "", True) for at in range(3)]
    dead = [(2, "x", "", False), (1, "y", "", False), (1, "a long way off", "", False)]
    texts = re.findall(r'<text class="(.*?)" x="(.*?)" y="(.*?)">(.*?)<', tree_chart(trunk + dead))
    assert [float(y) for *_, y, _ in texts] == [18] * 4 + [40, 40, 62]
    placed = sorted((y, float(x), float(x) + 7.3 * len(label)) for _, x, y, label in texts)
    for (line, _, right), (other, left, _) in zip(placed, placed[1:], strict=False):
        assert line != other or right < left
