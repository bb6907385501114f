"""Attention maps on the page: the values that were found, and empty masked cells."""

import json

import pytest

from lm_jax.reports.attention_section import attention_section
from tests.reports.pages import Page, analysis_page

CROSS = {
    "readers": ["<end>", "b"],
    "read": ["x", "</script>", "z"],
    "layers": [1, 2],
    "heads": [1],
    "maps": [[["250 750 .", "0 1000 ."]], [["1000 0 .", "500 500 ."]]],
}
DECODER = {
    "readers": ["<end>"],
    "read": ["<end>"],
    "layers": [1],
    "heads": [1, 2],
    "maps": [[["1000"], ["1000"]]],
}


def test_the_first_map_is_a_table_whose_masked_cells_are_empty():
    html = attention_section({"cross": CROSS}).replace("\n", "")
    assert (
        "<table><tr><th></th><th><span>x</span></th><th><span>&lt;/script&gt;</span></th>"
        "<th><span>z</span></th></tr>"
        '<tr><th>&lt;end&gt;</th><td style="--w: 50%" title="0.250"></td>'
        '<td style="--w: 87%" title="0.750"></td><td></td></tr>'
        '<tr><th>b</th><td style="--w: 0%" title="0.000"></td>'
        '<td style="--w: 100%" title="1.000"></td><td></td></tr></table>'
    ) in html


def test_a_page_has_the_choices_the_values_and_a_picture_of_every_map():
    found = {"decoder": DECODER, "cross": CROSS}
    read = Page(analysis_page({"attention": found}))
    assert len(read.all("select")) == 3 and len(read.all("option")) == 2 + 1 + 2
    assert [image["alt"] for image in read.all("img")] == [
        "decoder, layer 1, head 1",
        "decoder, layer 1, head 2",
        "cross, layer 1, head 1",
        "cross, layer 2, head 1",
    ]
    assert all(image["src"].startswith("data:image/png;base64,") for image in read.all("img"))
    values = [text for tag, text in read.scripts if tag.get("type") == "application/json"]
    assert [json.loads(text) for text in values] == [[DECODER, CROSS]]


@pytest.mark.parametrize("none", [None, {}])
def test_a_model_without_attention_has_no_section(none):
    assert attention_section(none) == ""
