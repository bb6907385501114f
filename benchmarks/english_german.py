"""English-German pairs from Debian and PyPI packages, as lines of source<TAB>target<TAB>document.

  mkdir -p packages && cd packages
  for name in libreoffice-help-en-us libreoffice-help-de libreoffice-l10n-de debian-handbook \\
      manpages manpages-dev manpages-de manpages-de-dev coreutils util-linux systemd dpkg apt; do
    apt-get download $name && dpkg-deb -x ${name}_*.deb $name
  done
  pip download --no-deps django && unzip -q -d django django-*.whl
  cd .. && python -m benchmarks.english_german --packages=packages --output=en_de.tsv

Any further package with manual pages in both languages, or whose pages manpages-de translates, adds
pairs. The sources are paragraphs of LibreOffice's help (with equal ids), of the Debian handbook
(where a file has equally many in both languages), sections of manual pages (with equal macros in
both), and gettext catalogues. Paragraphs with equally many sentences on both sides become pairs of
sentences. Pairs are dropped if they are equal, hold different numbers, hold few letters, or have
far more text on one side. A document is a help page, a chapter, a manual page or a catalogue.
Needs polib.
"""

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from absl import app, flags

_PACKAGES = flags.DEFINE_string(
    "packages", None, "Directory of the unpacked packages.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "TSV file to write.", required=True)
_LONGEST = flags.DEFINE_integer(
    "longest", 400, "Largest number of characters per side.", lower_bound=1
)

Pairs = Iterator[tuple[str, str, str]]  # source, target, document
_BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "td", "th", "dt", "dd"}
_SKIPPED = ("pre", "script", "style")


class _Paragraphs(HTMLParser):
    """Collects the id and the text of each block of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._id: str | None = None
        self._parts: list[str] = []
        self._skips = 0  # number of open elements whose text is skipped
        self._spans: list[bool] = []  # whether each open <span> is skipped

    def handle_starttag(self, tag, attrs):
        self._skips += tag in _SKIPPED
        if tag == "span":  # the help repeats some words per operating system
            self._spans.append(dict(attrs).get("class") == "MAC")
            self._skips += self._spans[-1]
        if tag in _BLOCKS:
            self._end()
            self._id = dict(attrs).get("id") or ""

    def handle_endtag(self, tag):
        self._skips -= tag in _SKIPPED
        if tag == "span" and self._spans:
            self._skips -= self._spans.pop()
        if tag in _BLOCKS:
            self._end()

    def handle_data(self, data):
        if not self._skips:
            self._parts.append(data)

    def _end(self):
        text = " ".join("".join(self._parts).split())
        if self._id is not None and text:
            self.found.append((self._id, text))
        self._id, self._parts = None, []


def _paragraphs(path: Path) -> list[tuple[str, str]]:
    parser = _Paragraphs()
    parser.feed(path.read_text(encoding="utf-8", errors="replace"))
    return parser.found


def help_pages(packages: Path) -> Pairs:
    """Yields paragraphs of LibreOffice's help that have the same id."""
    for english in sorted(packages.glob("**/libreoffice/help/en-US/**/*.html")):
        name = str(english).split("/en-US/")[-1]
        matches = list(packages.glob(f"*/usr/share/libreoffice/help/de/{name}"))
        if matches:
            german = {key: text for key, text in reversed(_paragraphs(matches[0])) if key}
            for key, text in dict(reversed(_paragraphs(english))).items():
                if key in german and re.match(r"(par|hd)_", key):
                    yield text, german[key], f"help/{name}"


def handbook(packages: Path) -> Pairs:
    """Yields paragraphs of handbook files with equally many paragraphs in both languages."""
    for english in sorted(packages.glob("**/debian-handbook/html/en-US/*.html")):
        german = english.parents[1] / "de-DE" / english.name
        if german.exists():
            sides = [[text for _, text in _paragraphs(path)] for path in (english, german)]
            if len(sides[0]) == len(sides[1]):
                for pair in zip(*sides, strict=True):
                    yield (*pair, f"handbook/{english.stem}")


def catalogues(packages: Path) -> Pairs:
    """Yields messages of German gettext catalogues, without marks of keyboard shortcuts."""
    import polib

    for path in sorted(packages.glob("**/de/LC_MESSAGES/*.[mp]o")):
        if path.suffix == ".mo" and path.with_suffix(".po").exists():
            continue
        entries = (polib.pofile if path.suffix == ".po" else polib.mofile)(str(path))
        for entry in entries:
            if entry.msgstr and not entry.msgid_plural and "fuzzy" not in entry.flags:
                source, target = (
                    " ".join(re.sub(r"[~_](?=\w)", "", text.split("\x04")[-1]).split())
                    for text in (entry.msgid, entry.msgstr)
                )
                yield source, target, f"messages/{path.relative_to(packages)}"


_BREAKS = set(".PP .P .LP .TP .IP .HP .SH .SS .RS .RE .br .sp .TQ .EX .EE .nf .fi .TS .TE".split())
_FONTS = set(".B .I .BR .RB .IR .RI .BI .IB .SM .SB".split())
_SIGNS = {"aq": "'", "dq": '"', "em": "\u2014", "en": "\u2013", "lq": "\u201c", "rq": "\u201d"}
_SIGNS |= {
    f":{plain}": sign
    for plain, sign in zip("aouAOU", "\u00e4\u00f6\u00fc\u00c4\u00d6\u00dc", strict=True)
}
_SIGNS |= {
    "ss": "\u00df",
    "bu": "\u2022",
    "co": "\u00a9",
    "ga": "`",
    "ha": "^",
    "ti": "~",
    "rs": "\x00",
    "hy": "-",
}
_SIGNS |= {"Bq": "\u201e", "oq": "\u2018", "cq": "\u2019", "Fo": "\u00ab", "Fc": "\u00bb"}


def _unescape(text: str) -> str:
    """Returns the text of a line of roff; unknown escapes keep their backslash."""
    text = re.sub(r"\\f(\(..|\[[^]]*\]|.)", "", text)
    text = re.sub(r"\\s[-+]?\d|\\[&/,%:|^c]", "", text)
    text = re.sub(r"\\\[u([0-9A-F]{4,5})\]", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(
        r"\\[(*]?(?:\((..)|\[(..)\])|\\\((..)",
        lambda m: _SIGNS.get(next(filter(None, m.groups())), "\\"),
        text,
    )
    return text.replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ").replace("\\e", "\x00")


def _sections(path: Path) -> list[list[tuple[str, str]]]:
    """Returns the sections of a manual page, each a list of macros with the text after them."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        lines = file.read().split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith(".TH")]
    sections: list[list[tuple[str, list[str]]]] = [[("", [])]]
    verbatim = False
    for line in lines[starts[0] + 1 :] if starts else []:
        macro, _, rest = line.partition(" ")
        if line.startswith(("'", '.\\"')):
            continue
        if macro in _BREAKS or not line.strip():
            verbatim = macro in (".nf", ".EX", ".TS") or (
                verbatim and macro not in (".fi", ".EE", ".TE")
            )
            if macro == ".SH":
                sections.append([])
            sections[-1].append((macro, []))
            if macro in (".SH", ".SS") and rest:
                sections[-1][-1][1].append(_unescape(rest.strip('"')))
                sections[-1].append(("", []))
            continue
        if macro in _FONTS:
            words = re.findall(r'"([^"]*)"|(\S+)', rest)
            line = ("" if len(macro) == 3 and macro != ".SM" else " ").join(
                quoted or plain for quoted, plain in words
            )
        elif line.startswith("."):
            continue
        if not verbatim and sections[-1]:
            sections[-1][-1][1].append(_unescape(line))
    return [
        [(macro, " ".join(" ".join(parts).split())) for macro, parts in section]
        for section in sections
    ]


def manual_pages(packages: Path) -> Pairs:
    """Yields paragraphs of manual-page sections whose macros are equal in both languages."""
    english = {path.parts[-2:]: path for path in packages.glob("*/usr/share/man/man*/*.gz")}
    for german in sorted(packages.glob("*/usr/share/man/de/man*/*.gz")):
        if german.parts[-2:] not in english:
            continue
        sides = [_sections(path) for path in (english[german.parts[-2:]], german)]
        titles = [section[0][1][:11] for section in sides[1] if section]
        if titles and titles[-1] == "\u00dcBERSETZUNG":  # the section that names the translators
            sides[1].pop()
        if len(sides[0]) != len(sides[1]):
            continue
        for sections in zip(*sides, strict=True):
            macros = [[macro for macro, _ in section] for section in sections]
            if macros[0] == macros[1]:
                for (_, source), (_, target) in zip(*sections, strict=True):
                    yield source, target, f"man/{german.parts[-2]}/{german.name}"


def sentences(source: str, target: str) -> list[tuple[str, str]]:
    """Splits a pair into pairs of sentences if both have equally many of similar lengths."""
    cut = re.compile(
        r'(?<=[a-z\u00e4\u00f6\u00fc\u00df0-9)"\u201c][.!?])\s+(?=[A-Z\u00c4\u00d6\u00dc"\u201e])'
    )
    parts = cut.split(source), cut.split(target)
    if len(parts[0]) == len(parts[1]):
        pairs = list(zip(*parts, strict=True))
        if all(0.5 < (len(a) + 10) / (len(b) + 10) < 1.7 for a, b in pairs):
            return pairs
    return [(source, target)]


def is_pair(source: str, target: str) -> bool:
    """Returns whether two texts look like translations of each other."""
    numbers = [Counter(re.findall(r"\d+", text)) for text in (source, target)]
    return (
        source != target
        and max(len(source), len(target)) <= _LONGEST.value
        and "\\" not in source + target
        and all(len(re.findall(r"[^\W\d_]", text)) >= 0.5 * len(text) for text in (source, target))
        and numbers[0] == numbers[1]
        and 0.4 < (len(source) + 10) / (len(target) + 10) < 2
    )


def main(_: list[str]) -> None:
    """Writes the pairs and prints their number by source."""
    packages, counts, seen = Path(_PACKAGES.value), Counter[str](), set()
    with open(_OUTPUT.value, "w", encoding="utf-8") as file:
        for read in (help_pages, handbook, catalogues, manual_pages):
            for source, target, document in read(packages):
                for pair in sentences(source, target):
                    if is_pair(*pair) and pair not in seen:
                        seen.add(pair)
                        counts[read.__name__] += 1
                        file.write("\t".join((*pair, document)).replace("\x00", "\\") + "\n")
    print(dict(counts), counts.total(), "pairs")


if __name__ == "__main__":
    app.run(main)
