"""The visible text of a page of HTML, navigation and footers included.

It is what a browser would show as text, a line for each block. Extraction of the article alone is a
matter of a preparation, not of a reader.
"""

import re
from html.parser import HTMLParser

_HIDDEN = {
    "iframe",
    "noscript",
    "script",
    "select",
    "style",
    "svg",
    "template",
    "textarea",
    "title",
}
_BLOCKS = set(
    "address article aside blockquote body br caption dd details div dl dt fieldset figcaption "
    "figure footer form h1 h2 h3 h4 h5 h6 header hr legend li main nav ol option p pre section "
    "summary table tbody tfoot thead tr ul".split()
)
_CELLS = {"td", "th"}

_MARKUP = re.compile("<[a-zA-Z/!?]")


def visible_text(html: str) -> str:
    """Returns the lines of text that a page shows, without blank ones.

    It takes time in proportion to the page, whatever stands in it.
    """
    parser = _VisibleText()
    whole = html.rfind(">") + 1  # no markup that begins later ends: it shows nothing
    markup = _MARKUP.search(html, whole)
    parser.feed(html[: markup.start() if markup else len(html)])
    parser.close()
    lines = (line.rstrip() for line in parser.text().split("\n"))
    return "\n".join(line for line in lines if line)


class _VisibleText(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden = self._preformatted = 0  # numbers of open elements
        self._comments_end = True  # whether the last one that was looked at does

    def text(self) -> str:
        return "".join(self._parts)

    def parse_comment(self, i: int, report: bool = True) -> int:
        """Looks for the end of a comment once where there is none, and not from each on."""
        found = super().parse_comment(i, report) if self._comments_end else -1
        self._comments_end = found >= 0
        return found

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Skips `<![...>`, as browsers do. `html.parser` of Python 3.11 raises AssertionError."""
        return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in _HIDDEN
        self._preformatted += tag == "pre"
        self._separate(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(self._hidden - 1, 0)
        if tag == "pre":
            self._preformatted = max(self._preformatted - 1, 0)
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if not self._preformatted:
            data = re.sub(r"\s+", " ", data)
            if not self._parts or self._parts[-1][-1].isspace():
                data = data.removeprefix(" ")
        if data:
            self._parts.append(data)

    def _separate(self, tag: str) -> None:
        if self._hidden or not self._parts:
            return
        if tag in _BLOCKS:
            self._parts.append("\n")
        elif tag in _CELLS and not self._parts[-1][-1].isspace():
            self._parts.append("\t")
