"""Next-token predictions and beam search on the page."""

from lm_jax.reports.generation_section import beam_search_section, next_tokens_section
from lm_jax.reports.sections import analysis_sections
from tests.reports.pages import Page, analysis_page


def node(parent, tokens, log_probability, rank=None, score=None):
    return {
        "parent": parent,
        "tokens": tokens.split(),
        "log_probability": log_probability,
        "rank": rank,
        "score": score,
    }


NODES = [
    node(-1, "<end>", 0.0),
    node(0, "a", -0.5),
    node(1, "b <end>", -2.0, 1, -1.0),
    node(1, "dead", -1.5),
    node(0, "c <end>", -1.0, 0, -0.5),
]
STEPS = [
    {"after": "<end>", "next": "a", "tokens": ["a", "<b>"], "probabilities": [0.75, 0.125]},
    {"after": "a", "next": "z", "tokens": ["a", "<b>"], "probabilities": [0.5, 0.25]},
    {"after": "z", "next": None, "tokens": ["a", "<b>"], "probabilities": [1.0, 0.0]},
]
FOUND = {
    "next_tokens": {"text": "the prompt", "source": ["s", "<end>"], "steps": STEPS},
    "beams": NODES,
}


def test_the_best_text_of_a_search_is_marked_and_on_the_top_line():
    tree = beam_search_section(NODES).split('<div class="beams">')[1]
    assert tree.replace("\n", "") == (
        '<svg class="tree" width="361" height="74" role="img" aria-label="tree of 5 prefixes">'
        '<path class="strong" d="M44.5 14h6V14H56.5"/>'
        '<path class="" d="M44.5 14h6V36H56.5"/>'
        '<path class="" d="M115.6 36h6V36H127.6"/>'
        '<path class="" d="M115.6 36h6V58H127.6"/>'
        '<text class="strong" x="4.0" y="18">&lt;end&gt;</text>'
        '<text class="strong" x="60.5" y="18">c &lt;end&gt;'
        '<tspan class="note"> -1.00 #1, score -0.500</tspan></text>'
        '<text class="" x="60.5" y="40">a<tspan class="note"> -0.50</tspan></text>'
        '<text class="" x="131.6" y="40">b &lt;end&gt;'
        '<tspan class="note"> -2.00 #2, score -1.000</tspan></text>'
        '<text class="" x="131.6" y="62">dead<tspan class="note"> -1.50</tspan></text>'
        "</svg></div>"
    )


def test_a_very_large_tree_shows_only_the_finished_texts():
    chain = [node(at, "never", -9.0) for at in range(len(NODES) - 1, 700)]
    html = beam_search_section([*NODES, *chain])
    assert "never" not in html and "dead" not in html and html.count("score") == 3


def test_the_token_that_follows_is_marked_or_named():
    html = next_tokens_section(FOUND["next_tokens"])
    cards = html.split("<figure>")[1:]
    assert cards[0].count('class="next"') == 1 and ", before" not in cards[0]
    assert '<tr class="next"><th>a</th><td><i style="width: 75.0%"></i></td><td>75.0%' in cards[0]
    assert 'class="next"' not in cards[1] and ", before <b>z</b>" in cards[1]
    assert 'class="next"' not in cards[2] and ", before" not in cards[2]
    assert "after each token of the prompt. The" in html
    assert 'The source: <span class="tokens">s &lt;end&gt;</span>' in html


def test_the_page_is_whole():
    read = Page(analysis_page(FOUND))
    assert len(read.all("svg")) == 1 and len(read.all("figure")) == 3
    assert not any(body.strip() for body in analysis_sections({}).values())
