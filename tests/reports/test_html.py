"""What templates decide by themselves: which cells are numbers."""

import pytest

from lm_jax.reports.html import render


@pytest.mark.parametrize(
    ("cell", "is_number"),
    [
        ("2,719.5", True),
        ("-0.004", True),
        ("1e-05", True),
        ("6.040e+09", True),
        ("2.719 ± 0.026", True),
        ("+0.0645 to +0.0784", True),
        ("5.8%", True),
        ("3.32M", True),
        (7, True),
        ("", False),
        ("lstm", False),
        ("16 to lstm", False),
        ("0.1.0", False),
        ("2 of 2 failed", False),
    ],
)
def test_numbers_stand_at_the_right_and_on_one_line(cell, is_number):
    page = render(
        "comparison.html",
        title="",
        charts=[],
        figures=[["head"], [cell]],
        seeds=1,
        has_errors=False,
        differences=[],
        meaning="",
        remarks=[],
        settings=[],
    )
    style = ' class="number"' if is_number else ""
    assert f"<th{style}>head</th>" in page and f"<td{style}>{cell}</td>" in page


def test_names_break_after_commas_and_numbers_do_not():
    cards = render(
        "preparation.html",
        **dict.fromkeys(
            (
                "title",
                "left_out",
                "rules",
                "languages",
                "cluster_sizes",
                "clusters",
                "files",
                "changed",
                "defaults",
                "versions",
            ),
            [],
        ),
        headline=[("a,b", "d_model=16,<seed>=1 of 1,024")],
        stages=[[]],
        lengths=[],
        documents_read=1,
        redacted={"kinds": {}},
    )
    assert "<span>d_model=16,<wbr>&lt;seed&gt;=1 of 1,024</span>" in cards
