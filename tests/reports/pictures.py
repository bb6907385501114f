"""Checks of the charts of a page: names for screen readers, and texts that stand clear."""

import itertools
import re
from xml.etree import ElementTree

_LETTER = 6.0  # pixels of an average letter at 12 pixels; charts allow 7
_SHARES = {"start": 0.0, "middle": 0.5, "end": 1.0}


def charts_of(page):
    """Returns the charts of a page as elements."""
    return [ElementTree.fromstring(svg) for svg in re.findall("<svg.*?</svg>", page, re.DOTALL)]


def faults_of(chart):
    """Returns what is wrong with a chart: no name, texts outside its box, texts that overlap."""
    faults = [] if chart.get("aria-label") and chart.get("role") == "img" else ["no name"]
    _, _, width, height = map(float, chart.get("viewBox").split())
    boxes = [(text.text, _box(text)) for text in chart.iter("text") if text.text]
    for text, (left, top, right, bottom) in boxes:
        if left < 0 or top < 0 or right > width or bottom > height:
            faults.append(f"{text!r} is outside")
    for (text, one), (other_text, other) in itertools.combinations(boxes, 2):
        if one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]:
            faults.append(f"{text!r} and {other_text!r} overlap")
    return faults


def _box(text):
    x, y, width = float(text.get("x")), float(text.get("y")), _LETTER * len(text.text)
    left = x - _SHARES[text.get("text-anchor", "start")] * width
    return left, y - 9, left + width, y + 2
