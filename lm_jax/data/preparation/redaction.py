"""Redaction: personal data and secrets become placeholders such as <email>.

A pattern finds candidates; a check keeps what only looks alike: version numbers, digests, numbers
with a wrong check digit, phone numbers that no country has.
"""

import base64
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import phonenumbers
from datatrove.pipeline.base import PipelineStep

from lm_jax.data.preparation.config import names_in
from lm_jax.data.preparation.documents import write_tally
from lm_jax.data.preparation.plan import Plan
from lm_jax.json_values import parse

_REGIONS = {"en": "US", "ja": "JP"}  # of phone numbers without a country code
_EXAMPLES = 5  # of each kind in a task
_AROUND = 50  # characters on each side of an example
_NO_DOMAINS = frozenset(
    "png jpg jpeg gif svg webp css js py service socket timer target mount path html".split()
)
_DATE = re.compile(r"(?:19|20)\d\d[-. ][01]?\d[-. ][0-3]?\d\b")
_VERSION = re.compile(
    r"(?:\b(?:version|release|ver\.?|v\.?|section|chapter|rfc)|§)\s*$", re.IGNORECASE
)


def _is_email(found: re.Match[str], region: str) -> bool:
    """Returns whether it has a domain, not the name of a file or of a remote repository."""
    is_remote = found.group().startswith("git@") and found.string[found.end() :][:1] == ":"
    return found.group().rpartition(".")[2].lower() not in _NO_DOMAINS and not is_remote


def _is_web_token(found: re.Match[str], region: str) -> bool:
    header = found.group().partition(".")[0]
    if not header.startswith("eyJ"):
        return True
    try:
        found = parse(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except ValueError:  # binascii.Error is one
        return False
    return isinstance(found, dict) and "alg" in found


def _is_card(found: re.Match[str], region: str) -> bool:
    """Returns whether the digits begin as an issuer's and satisfy Luhn's formula."""
    digits = re.sub(r"\D", "", found.group())
    if not _ISSUERS.fullmatch(digits):
        return False
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    odd = sum(int(digit) for digit in digits[-1::-2])
    return (odd + sum(number - 9 if number > 9 else number for number in doubled)) % 10 == 0


_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
)


def _is_public_ip(found: re.Match[str], region: str) -> bool:
    """Returns whether it is an address of the internet, not the number of a version or section."""
    try:
        address = ipaddress.ip_address(found.group())
    except ValueError:
        return False
    if address.version == 4 and all(int(part) < 32 for part in found.group().split(".")):
        return False
    before = found.string[max(0, found.start() - 20) : found.start()]
    is_heading = before[-1:] in ("", "\n") and found.string[found.end() :][:2] == ". "
    return address.is_global and not _VERSION.search(before) and not is_heading


def _is_phone(found: re.Match[str], region: str) -> bool:
    if _DATE.match(found.group()):
        return False
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(found.group(), region))
    except phonenumbers.NumberParseException:
        return False


# (text) -> parts that hold all matches of a rule, with what may follow a match
Find = Callable[[str], Iterator[tuple[int, int]]]


class _Rule(NamedTuple):
    """What is replaced. Patterns look back at every character, so they see a few parts only."""

    pattern: re.Pattern[str]
    accepts: Callable[[re.Match[str], str], bool]
    parts: Find


def _runs(pattern: str) -> Find:
    """Finds runs of the characters that a match consists of; two more decide about its end."""
    runs = re.compile(pattern, re.ASCII)
    return lambda text: ((run.start(), run.end() + 2) for run in runs.finditer(text))


def _around_at_signs(text: str) -> Iterator[tuple[int, int]]:
    """Finds for each @ what may belong to it: 64 characters before and 536 after, to the next @."""
    at = text.find("@")
    while at >= 0:
        following = text.find("@", at + 1)
        stop = at + 600
        yield max(0, at - 64), stop if following < 0 else min(stop, following + 1)
        at = following


def _all_if_keys(text: str) -> Iterator[tuple[int, int]]:
    if "-----BEGIN " in text or any(pattern.search(text) for pattern in _ANY_TOKEN):
        yield 0, len(text)


_TOKENS = (  # each begins with letters, which are found quickly
    r"AKIA[A-Z0-9]{16}",
    r"ASIA[A-Z0-9]{16}",
    r"gh[pousr]_[A-Za-z0-9]{36,}",
    r"github_pat_[A-Za-z0-9_]{40,}",
    r"glpat-[A-Za-z0-9_-]{20,}",
    r"sk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}",
    r"sk_(?:live|test)_[A-Za-z0-9]{20,}",
    r"rk_(?:live|test)_[A-Za-z0-9]{20,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{20,}",
    r"AIza[A-Za-z0-9_-]{35}",
    r"hf_[A-Za-z0-9]{30,}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-AgE[A-Za-z0-9_-]{50,}",
    r"SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{40,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}",
)
_ANY_TOKEN = [re.compile(token, re.ASCII) for token in _TOKENS]
_BASE64 = r"[A-Za-z0-9+/=\s,:.\\]*"  # and what headers hold
# No five dashes stand within a key, so that a search ends at the next beginning: without that, a
# text of beginnings takes time in proportion to the square of its length.
_PEM = rf"-----BEGIN ([A-Z0-9 ]{{3,40}})-----{_BASE64}(?:-(?!----){_BASE64})*-----END \1-----"
RULES: dict[str, _Rule] = {
    "key": _Rule(
        re.compile(rf"{_PEM}|(?<![A-Za-z0-9_-])(?:{'|'.join(_TOKENS)})(?![A-Za-z0-9_])", re.ASCII),
        _is_web_token,
        _all_if_keys,
    ),
    "email": _Rule(
        re.compile(
            r"(?<![\w.+@/-])[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_%+-])?"
            r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w@-])",
            re.ASCII,
        ),
        _is_email,
        _around_at_signs,
    ),
    "card": _Rule(
        re.compile(r"(?<![\w.+-])[2-6]\d{3}(?:[ -]?\d){8,11}\d(?![\w-]|\.\d)", re.ASCII),
        _is_card,
        _runs(r"[2-6][0-9 -]{12,}"),
    ),
    "ip": _Rule(
        re.compile(
            r"(?<![\w.:-])(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
            r"(?![\w-]|\.\w)|(?<![\w.:])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{4,34}(?![\w:])",
            re.ASCII,
        ),
        _is_public_ip,
        _runs(r"[0-9][0-9A-Fa-f.:]{6,}"),
    ),
    "phone": _Rule(
        re.compile(
            r"(?<![\w.+/#=:-])(?:\+\d{1,3}[ .-]?\(?\d{1,5}\)?(?:[ .-]{1,2}\d{1,4}){1,4}"
            r"|\+\d{8,15}"
            r"|(?:\(\d{2,5}\) ?|\d{2,5}[ .(-])\d{1,4}(?:[ .)-]\d{2,4}){1,2})"
            r"(?![\w/:-]|\.\d)",
            re.ASCII,
        ),
        _is_phone,
        _runs(r"[0-9+(][0-9 ().+-]{4,}"),
    ),
}


def matches(rule: _Rule, text: str) -> Iterator[re.Match[str]]:
    """Yields what `rule.pattern.finditer(text)` yields, in a fraction of its time."""
    end = 0
    for start, stop in rule.parts(text):
        for found in rule.pattern.finditer(text, max(start, end), stop):
            yield found
            end = found.end()


def redact(text: str, kinds: Collection[str], language: str) -> tuple[str, Counter[str]]:
    """Returns a text with placeholders, and how many it got of each kind."""
    counts: Counter[str] = Counter()
    for kind, rule in RULES.items():
        if kind not in kinds:
            continue
        parts, end = [], 0
        for found in matches(rule, text):
            if rule.accepts(found, _REGIONS[language]):
                parts += [text[end : found.start()], f"<{kind}>"]
                end = found.end()
                counts[kind] += 1
        if parts:
            text = "".join([*parts, text[end:]])
    return text, counts


class Redaction(PipelineStep):
    """Redacts documents, and tallies what was found with examples that show placeholders only."""

    type, name = "FORMAT", "redaction"

    def __init__(self, plan: Plan):
        super().__init__()
        self.directory = plan.directory
        self.kinds = names_in(plan.config.redaction.kinds)
        self.language = plan.config.language

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Yields the documents with placeholders."""
        total: Counter[str] = Counter()
        around: dict[str, list[str]] = {kind: [] for kind in RULES}
        documents = 0
        for document in data:
            document.text, counts = redact(document.text, self.kinds, self.language)
            total += counts
            documents += bool(counts)
            for kind in counts:
                if len(around[kind]) < _EXAMPLES:
                    middle = document.text.index(f"<{kind}>")
                    start = max(0, middle - _AROUND)
                    around[kind].append(document.text[start : middle + _AROUND])
            yield document
        values = {"kinds": total, "examples": around, "documents": documents}
        write_tally(self.directory, "redacted", rank, values)


def add_redaction(plan: Plan) -> None:
    """Replaces personal data and secrets by placeholders."""
    plan.add(Redaction(plan))
