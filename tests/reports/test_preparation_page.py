"""The page of a prepared corpus shows each rule with documents, whatever these hold."""

import html
import re

from lm_jax.reports.preparation_page import stage_table, write_page
from tests.reports.pages import HOSTILE, Page

STATISTICS = {
    "language": "en",
    "stages": [
        {"name": "read", "documents": 1200, "characters": 9000, "bytes": 9100},
        {"name": HOSTILE, "documents": 300, "characters": 4500, "bytes": 4600},
    ],
    "rules": [
        {
            "rule": f"{HOSTILE}: short",
            "documents": 900,
            "characters": 4500,
            "examples": [{"id": HOSTILE, "characters": 50, "excerpt": HOSTILE, "language": "fr"}],
        },
        {"rule": "exact_duplicates", "documents": 12, "characters": 60, "examples": []},
    ],
    "left_out": {"documents that are not UTF-8": 1234},
    "lengths": {"read": {"4": 3, "8": 5}, "kept": {"8": 4}},
    "languages": {"en": 1000, "fr": 200},
    "clusters": {
        "sizes": {"2": 7, "3": 1, "4": 1, "7": 2, "8": 1},
        "examples": [
            [
                {"id": "a", "characters": 5, "excerpt": HOSTILE, "minhash_cluster_size": 2},
                {"id": "b", "characters": 5, "excerpt": HOSTILE, "minhash_cluster_size": 2},
            ]
        ],
    },
    "redacted": {"documents": 2, "kinds": {"email": 3}, "examples": {"email": [HOSTILE]}},
}
MANIFEST = {
    "files": [
        {"name": "0.gz", "documents": 1, "characters": 2, "size": 3, "sha256": "0123456789abcdef0"}
    ],
    "configuration": {"path": HOSTILE, "near_duplicates": {"words": 3}},
    "versions": {"datatrove": "0.10"},
}


def test_what_is_left_is_a_share_of_what_was_read():
    assert stage_table(STATISTICS)[1:] == [
        ("read", "1,200", "9,000", "100.0%"),
        (HOSTILE, "300", "4,500", "50.0%"),
    ]


def test_the_page_shows_documents_as_they_are(tmp_path):
    write_page(STATISTICS, MANIFEST, tmp_path / "report.html")
    source = (tmp_path / "report.html").read_text()
    assert HOSTILE not in source
    Page(source)  # every element is closed
    text = html.unescape(re.sub("<[^>]+>", " ", source))
    assert text.count(HOSTILE) >= 8
    assert "900 documents (75.0%), 4,500 characters" in text
    assert f"{HOSTILE}: short : 900" in " ".join(text.split())
    assert "exact_duplicates : 12 documents" in " ".join(text.split())  # a stage of one rule
    assert "a is kept of 2" in text
    assert "4.60 kB" in text  # what is left
    for row in ("4 to 7", "0123456789abcdef", "1,234", "near_duplicates.words"):
        assert row in text


def test_changed_fields_come_first_and_defaults_are_folded(tmp_path):
    configuration = {"path": "*.md", "stages": "redaction", "language": "en", "tasks": 16}
    configuration |= {"near_duplicates": {"words": 3, "bands": 21}}
    configuration |= {"c4_quality": {"drop_curly_brackets": False}, "gone": 1000}
    write_page(STATISTICS, MANIFEST | {"configuration": configuration}, tmp_path / "report.html")
    section = (tmp_path / "report.html").read_text().split("<h2>Configuration")[1]
    shown, folded = section.split("<h2>Versions")[0].split("<details>")
    assert re.findall("<th>(.*?)</th>", folded) == ["near_duplicates.words"]
    for row in ("tasks</th><td>16", "near_duplicates.bands</th><td>21", "gone</th><td>1,000"):
        assert row in shown
    assert "c4_quality.drop_curly_brackets</th><td>false" in shown
