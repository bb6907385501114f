"""WARC and WET, written here from the standard (ISO 28500), and the text of pages."""

import gzip
import re
import zlib
from _markupbase import ParserBase
from html.parser import HTMLParser

import pytest

from lm_jax.data import content
from lm_jax.data.formats.html_text import visible_text
from lm_jax.data.formats.warc import OTHERS
from lm_jax.data.text_stream import Counts, stream_texts
from lm_jax.errors import UserError
from tests.data.formats.refused import refused


def record(kind, body):
    return (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.example/b\r\n"
        f"WARC-Record-ID: <urn:uuid:1>\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + (body + b"\r\n\r\n")


def response(body, kind="text/html", status="200 OK", more=""):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}\r\n"
    return record("response", head.encode() + body)


CHUNKED, PACKED = "Transfer-Encoding: chunked\r\n", "Content-Encoding: gzip\r\n"
RECORDS = [  # and the text of each, if it is a document
    (record("warcinfo", b"software: none\r\n"), None),
    (record("request", b"GET /b HTTP/1.1\r\nHost: a.example\r\n\r\n"), None),
    (response("<p>grün".encode()), "grün"),
    (response("größe".encode("latin-1"), "text/html; charset=ISO-8859-1"), "größe"),
    (response(b'<meta charset="iso-8859-1">\x93q\x94'), "“q”"),  # as browsers read it
    (response(b"\x87\x40", "text/plain; charset=Shift_JIS"), "①"),  # not of JIS itself
    (response(b"\x89PNG", "image/png"), None),
    (response(b"<p>gone", status="404 Not Found"), None),
    (response(b"a <b> c", "text/plain"), "a <b> c"),
    (response(gzip.compress(b"packed", mtime=0), "text/plain", more=PACKED), "packed"),
    (response(zlib.compress(b"zlib"), "text/plain", more="content-encoding: deflate\n"), "zlib"),
    (response(b"was packed", "text/plain", more=PACKED), "was packed"),
    (response(b"x", "text/plain", more="Content-Encoding: br\r\n"), None),
    (response(b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n", "text/plain", more=CHUNKED), "hello!"),
    (response(b"was chunked", "text/plain", more=CHUNKED), "was chunked"),
    (record("conversion", "text of WET: é\n".encode()), "text of WET: é\n"),
    (record("metadata", b"fetchTimeMs: 3\r\n"), None),
]
EXPECTED = [(text, n) for n, (_, text) in enumerate(RECORDS, 1) if text is not None]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.wet.gz", "by_its_content"])
def test_pages_and_texts_are_documents(tmp_path, name):
    pack = gzip.compress if name.endswith("gz") else bytes  # each record alone, as crawlers do
    (tmp_path / name).write_bytes(b"".join(pack(content) for content, _ in RECORDS))
    counts = Counts()
    found = list(stream_texts(str(tmp_path), counts=counts))
    assert found == [(text, f"{name}:{number}") for text, number in EXPECTED]
    assert counts.left_out == {OTHERS: 3}
    addresses = {text for text, _ in stream_texts(str(tmp_path), "url")}
    assert addresses == {"http://a.example/b"}


def test_an_archive_that_is_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.warc"
    content = b"".join(content for content, _ in RECORDS[1:3])
    ends, end = set(), 0
    for part, _ in RECORDS[1:3]:
        end += len(part)
        ends |= set(range(end - 4, end + 1))  # all but the blank lines that follow a record
    refusals = set()
    for kept in range(1, len(content)):
        path.write_bytes(content[:kept])
        try:
            list(stream_texts(str(path)))
        except UserError as error:
            assert "cut off: fetch it again" in str(error)
            refusals.add(kept)
    assert set(range(1, len(content))) - refusals == ends - {len(content)}


@pytest.mark.parametrize("length", ["1000000000000", "9" * 5000])
def test_a_length_that_lies_takes_no_memory(length, tmp_path):
    content = RECORDS[1][0]
    given = re.search(rb"Content-Length: \d+", content)[0]
    path = tmp_path / "a.warc"
    path.write_bytes(content.replace(given, f"Content-Length: {length}".encode()))
    with pytest.raises(UserError, match="ends early|expected a number"):
        list(stream_texts(str(path)))


def test_a_record_that_unpacks_to_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "host_memory", lambda: 4e6)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(record("conversion", b"a" * 3_000_000)))
    with pytest.raises(UserError, match=r"a.warc.gz: record 1 has more than 1,048,576 bytes"):
        list(stream_texts(str(path)))
    path = tmp_path / "b.warc"  # an answer that is packed itself shows what fits
    packed = zlib.compress(b"a" * 3_000_000)
    path.write_bytes(response(packed, "text/plain", more="Content-Encoding: deflate\r\n"))
    (found,) = stream_texts(str(path))
    assert len(found.text) == 1_000_000


def test_headers_without_end_are_refused(tmp_path):
    (tmp_path / "a.warc").write_bytes(b"WARC/1.0\r\n" + b"A: b\r\n" * 1001)
    assert "record 1 has more than 1,000 headers" in refused(str(tmp_path))


@pytest.mark.parametrize("charset", ["punycode", "PunyCode", "idna", "unicode_escape", "hex"])
def test_encodings_of_python_that_no_page_has_are_left_alone(charset, tmp_path):
    """Punycode of 80 kB takes a second, and of 8 MB hours."""
    page = rb"\u0041" + b"a" * 300_000 + b"-" + b"a" * 300_000
    (tmp_path / "a.warc").write_bytes(response(page, f"text/plain; charset={charset}"))
    assert [text for text, _ in stream_texts(str(tmp_path))] == [page.decode()]


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "a.warc"
    path.write_bytes(record("conversion", b"abc").replace(b"Length: 3", b"Length: 2"))
    assert "record 2 begins with b'c\\r\\n'; expected WARC/1.0" in refused(path)
    path.write_bytes(record("conversion", b"abc").replace(b"Length: 3", b"Length: -3"))
    assert "record 1 has Content-Length '-3'; expected a number" in refused(path)
    assert "is WARC, whose records have text and url and no body; name the" in refused(path, "body")


def test_a_page_in_a_wrong_encoding_is_treated_as_everywhere(tmp_path):
    (tmp_path / "a.warc").write_bytes(response(b"<p>gr\xf6\xdfe", "text/html; charset=utf-8"))
    path = str(tmp_path)
    assert "a.warc:1 is not UTF-8: byte 0xf6 at offset 5; mend the record" in refused(path)
    replaced = [text for text, _ in stream_texts(path, on_bad_text="replace")]
    assert replaced == ["gr\ufffd\ufffde"]
    assert not list(stream_texts(path, on_bad_text="skip"))


def test_a_page_shows_its_blocks_as_lines():
    page = """<!doctype html><html><head><title>Not shown</title><style>b {}</style>
    <script>if (a < b) document.write("<p>no")</script><body>
    <h1>A  long
    heading</h1><p>One <b>bold</b>, <i>two</i>&nbsp;&amp; <span>three</span><br/>next
    <pre>def f():
        return 1</pre>
    <table><tr><td>a<td>b</tr><tr><td>c</td><td>d</td></tr></table>
    <ul><li>x<li>y</ul><noscript>no</noscript><svg><text>no</text></svg></body></html>"""
    assert visible_text(page).split("\n") == [
        "A long heading",
        "One bold, two & three",
        "next",
        "def f():",
        "        return 1",
        "a\tb",
        "c\td",
        "x",
        "y",
    ]


_SEARCHES = ("parse_starttag", "parse_endtag", "parse_pi", "parse_html_declaration")


@pytest.mark.parametrize("part", ["<a", "<!--", "</", "<?", "<a b='", "<![", "<!", "<!--a>", "<a>"])
def test_the_end_of_markup_that_has_none_is_looked_for_once(part, monkeypatch):
    """A search from each `<` to the end of the page made 80 kB take 9 s."""
    futile = 0

    def counted(search):
        def count(*arguments):
            nonlocal futile
            found = search(*arguments)
            futile += found < 0
            return found

        return count

    for name in _SEARCHES:
        monkeypatch.setattr(HTMLParser, name, counted(getattr(HTMLParser, name)))
    monkeypatch.setattr(ParserBase, "parse_comment", counted(ParserBase.parse_comment))
    visible_text("x" + part * 1000)
    visible_text("x" + part * 1000 + ">")
    assert futile < 10


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("a<![if IE]>b<![endif]>c", "abc"),
        ("a<![<![>b", "ab"),  # html.parser of Python 3.11 raises AssertionError
        ("a<![CDATA[b]]>c", "ac"),
        ("a<!-- b", "a"),
        ("a<b class='", "a"),
        ("1 < 2 & 3 <", "1 < 2 & 3 <"),
        ("a<!-- <p> --><p>b<!-- c", "a\nb"),
    ],
)
def test_markup_without_an_end_shows_nothing(page, text):
    assert visible_text(page) == text
