"""Writes raw English and Japanese text from Debian's documentation and Python's packages.

  python -m benchmarks.raw_texts english japanese --output=data

One document a page: english.jsonl and japanese.jsonl hold the text of HTML pages, manual pages and
plain files as they come, with navigation, code and repeated licences, as a crawl does. English also
has the files of this Python's site-packages. Needs apt-get and dpkg-deb; not root. Check the
licence of each package before you redistribute its text.
"""

import gzip
import html.parser
import json
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags

OUTPUT = flags.DEFINE_string("output", None, "Directory to write to.", required=True)

_PACKAGES = {
    "english": (
        "manpages manpages-dev anarchism jargon-text fortunes libreoffice-help-en-us "
        "debian-handbook debian-policy developers-reference kicad-doc-en doc-debian "
        "gimp-help-en lilypond-doc-html scilab-doc python3.11-doc"
    ),
    "japanese": (
        "manpages-ja manpages-ja-dev libreoffice-help-ja debian-handbook debian-reference-ja "
        "debian-policy-ja developers-reference-ja maint-guide-ja debian-faq-ja debian-edu-doc-ja "
        "aptitude-doc-ja kicad-doc-ja gimp-help-ja lilypond-doc-html-ja scilab-doc-ja"
    ),
}
_KANA = re.compile("[぀-ヿ]")
_BLOCKS = set("p div li dt dd tr h1 h2 h3 h4 h5 h6 br pre table title section td".split())


class _Text(html.parser.HTMLParser):
    """Collects the text of a page, a line for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._skipped += tag in ("script", "style")
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("script", "style")
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.parts.append(data)


def _of_html(source: str) -> str:
    parser = _Text()
    parser.feed(source)
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _of_roff(source: str) -> str:
    """Returns the text of a manual page: filled paragraphs under their headings."""
    parts: list[str] = []
    for line in source.splitlines():
        if line.startswith(('.\\"', "'\\\"", ".TH", ".so", ".ad", ".nh")):
            continue
        if re.match(r"[.'](SH|SS|PP|P|LP|TP|IP|HP|br|sp|nf|fi|Sh|Pp|It)\b", line):
            parts.append("\n")
        text = re.sub(r"^[.']\s*\w+\s*|\\f[BIRP]|\\f\(..|\\&|\\c|\\/|\\,|\\s[-+]?\d", "", line)
        text = re.sub(r"\\\((co|bu|em|en|aq|dq|lq|rq|cq|oq)", "", text)
        text = text.replace("\\-", "-").replace("\\e", "\\").replace('"', "").strip()
        parts.append(f"{text} " if text else "")
    return re.sub(r" *\n\s*\n*", "\n", "".join(parts)).strip()


_READERS: dict[str, Callable[[str], str]] = {
    ".html": _of_html,
    ".xhtml": _of_html,
    ".txt": str,
    ".md": str,
    ".rst": str,
    ".py": str,
    "": str,
}


def _files(package: str, directory: Path) -> Iterator[Path]:
    folder = directory / package
    folder.mkdir()
    subprocess.run(["apt-get", "download", "-qq", package], check=True, cwd=folder)
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    archive.unlink()
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _text_of(path: Path) -> str | None:
    """Returns the text of a file; None if it is no text."""
    name = path.name.removesuffix(".gz")
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        source = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\0" in source:
        return None
    if "/man/" in str(path):
        return _of_roff(source)
    reader = _READERS.get(Path(name).suffix)
    return reader(source) if reader else None


def _documents(language: str, directory: Path) -> Iterator[dict[str, str]]:
    for package in _PACKAGES[language].split():
        for path in _files(package, directory):
            text = _text_of(path)
            if text and (language == "english" or _KANA.search(text)):
                yield {"text": text, "origin": str(path.relative_to(directory))}
    if language == "english":
        root = Path(sysconfig.get_path("purelib"))
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in _READERS and (text := _text_of(path)):
                yield {"text": text, "origin": str(path.relative_to(root))}


def main(arguments: list[str]) -> None:
    """Writes the text of each named language."""
    unknown = set(arguments[1:]) - set(_PACKAGES)
    if unknown or not arguments[1:]:
        raise app.UsageError(f"expected some of {', '.join(_PACKAGES)}, not {sorted(unknown)}")
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    for language in arguments[1:]:
        path, characters = output / f"{language}.jsonl", 0
        with tempfile.TemporaryDirectory() as directory, path.open("w", encoding="utf-8") as file:
            for document in _documents(language, Path(directory)):
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
                characters += len(document["text"])
        print(f"{path}: {characters:,} characters", flush=True)


if __name__ == "__main__":
    app.run(main)
