"""Personal data becomes placeholders; what only looks alike stays."""

import re

import pytest

from lm_jax.data.preparation.config import REDACTIONS
from lm_jax.data.preparation.redaction import RULES, redact

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA75\n0Pq+/=\n-----END RSA PRIVATE KEY-----"
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0."
    "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Write to ann.lee+news@mail.example.com.", "Write to <email>."),
        ("en", "Server 93.184.216.34, and 2001:4860:4860::8888!", "Server <ip>, and <ip>!"),
        ("en", "Call (415) 555-2671 or +44 20 7946 0958.", "Call <phone> or <phone>."),
        ("en", "Call 212-736-5000 or +12127365000 now", "Call <phone> or <phone> now"),
        ("ja", "電話は03-3201-3331、携帯は090-1234-5678。", "電話は<phone>、携帯は<phone>。"),
        ("ja", "連絡先はtaro@example.co.jpです", "連絡先は<email>です"),
        ("en", "Card 4111 1111 1111 1111, 378282246310005", "Card <card>, <card>"),
        ("en", "id AKIAIOSFODNN7EXAMPLE end", "id <key> end"),
        ("en", f"token=ghp_{'a1B2' * 9}; next", "token=<key>; next"),
        ("en", f"a\n{PEM}\nb", "a\n<key>\nb"),
        ("en", f"{PEM[:32]}\n{PEM}", f"{PEM[:32]}\n<key>"),  # one without an end
        ("en", PEM.replace("MI", "Info: AES-256-CBC\n\n--MI"), "<key>"),
        ("en", f"Bearer {JWT} x", "Bearer <key> x"),
    ],
)
def test_personal_data_is_replaced(language, text, expected):
    assert redact(text, list(RULES), language)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "git clone git@github.com:google/jax.git",
        "the picture icon@2x.png and the unit getty@tty1.service",
        "version 1.202.3.4, 2.3.4.5, v10.77.3.2, section 3.12.4.1 of 192.168.0.1 and 127.0.0.1",
        "a line\n16.47.2.1. The properties",
        "@decorator.name of user@localhost",
        "order 4111 1111 1111 1112 has a wrong check digit",
        "ISBN 978-0-262-03561-3, 2021-10-12 10:22:33, pages 120-130",
        "commit 4fa8c3e4111111111111111a0c, uuid 123e4567-e89b-12d3-a456-426614174000",
        "std::vector<int> a; Foo::bar::baz; 10:22:33",
        "-----BEGIN OF THE TEXT-----",
        "0.1234567890123456 and 1234567890123456",
        "f(212) 736 - 5000 = 1",
    ],
)
def test_what_looks_alike_stays(text):
    assert redact(text, list(RULES), "en") == (text, {})


def test_only_the_kinds_that_are_asked_for_are_replaced():
    text, counts = redact("a@example.org from 93.184.216.34", ["ip"], "en")
    assert text == "a@example.org from <ip>"
    assert counts == {"ip": 1}


def test_every_kind_has_a_rule():
    assert RULES.keys() == REDACTIONS.keys()


def test_a_long_line_takes_no_time():
    """Patterns that try again from every character would take minutes."""
    for text in ("a" * 200_000, "1" * 200_000, "1 " * 100_000, "a.b@" * 50_000, "2001:" * 40_000):
        redact(text, list(RULES), "en")
    redact("-----BEGIN KEY-----" * 50_000, list(RULES), "en")
    assert not re.search("<", redact("x" * 1000, list(RULES), "en")[0])
