"""Pages read back, so that tests see what a browser would."""

from html.parser import HTMLParser

from lm_jax.reports.html import render
from lm_jax.reports.sections import analysis_sections

HOSTILE = "</script><script>alert('1')</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\"& $\\frac$"


def analysis_page(analysis):
    """A run report that has nothing but the sections about the inside of a model."""
    empty = dict.fromkeys(
        ("headline", "training_charts", "measures", "changed", "defaults", "timings"), []
    )
    return render(
        "run_report.html",
        title="run",
        analysis=analysis_sections(analysis),
        first={},
        baselines="",
        data={"summary": "", "facts": []},
        ended_at=None,
        skipped=0,
        ended_early="",
        has_errors=False,
        translations={"scores": [], "examples": []},
        origin="",
        subtitle="",
        fine_tuning={"workdir": "", "measures": [], "arrays": []},
        samples="",
        time_charts=[],
        environment=[],
        **empty,
    )


_VOID = ("meta", "img", "br", "wbr", "input", "link")


class Page(HTMLParser):
    """The elements of a page in order, `(tag, attributes)`, and its scripts.

    Raises:
      ValueError: an element that is not closed where it should be.
    """

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[tuple[dict, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        if self._open:
            raise ValueError(f"<{self._open[-1]}> is never closed")

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            raise ValueError(f"</{tag}> closes another element, at {self.getpos()}")

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append((self.elements[-1][1], data))
