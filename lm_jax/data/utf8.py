"""Bytes that are not UTF-8: refused, replaced or skipped, and counted."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from lm_jax.choices import choose
from lm_jax.errors import UserError

REPLACED = "bytes that are not UTF-8, replaced by U+FFFD"
SKIPPED = "documents that are not UTF-8"
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can spell it, UTF-8 cannot


class _Fault(NamedTuple):
    message: str
    replaced: str  # the text, with U+FFFD for each fault
    faults: int


def _refuse(fault: _Fault, left_out: Counter[str]) -> str | None:
    raise UserError(fault.message)


def _replace(fault: _Fault, left_out: Counter[str]) -> str | None:
    left_out[REPLACED] += fault.faults
    return fault.replaced


def _skip(fault: _Fault, left_out: Counter[str]) -> str | None:
    return None


INVALID_UTF8: Mapping[str, Callable[[_Fault, Counter[str]], str | None]] = {
    "refuse": _refuse,
    "replace": _replace,
    "skip": _skip,
}


_REMEDY = "convert it (iconv -f latin1 -t utf-8, or whatever encoding it has)"


class Decoder:
    """Decodes UTF-8, treats what is invalid in one way, and counts it in `left_out`.

    Args:
      treatment: a key of `INVALID_UTF8`.
      advice: what else a user can do, for the message.
      given_by: the field or the flag that names the file, for the message.
    """

    def __init__(
        self, treatment: str = "refuse", advice: str = "", given_by: str = "data.path"
    ) -> None:
        self._treat = choose(INVALID_UTF8, treatment, "data.invalid_utf8")
        self._advice, self._given_by = advice, given_by
        self.left_out: Counter[str] = Counter()

    def decode(self, raw: bytes, path: str, offset: int = 0, remedy: str = _REMEDY) -> str | None:
        """Returns the text of bytes; None: their document is to be skipped.

        Args:
          offset: of the bytes in their file, for the message.
          remedy: how to mend the file, for the message.

        Raises:
          UserError: they are not UTF-8 and are to be refused.
        """
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            message = (
                f"{path} is not UTF-8: byte {raw[error.start]:#04x} at offset "
                f"{offset + error.start}; {remedy} or leave it out of {self._given_by}"
                f"{self._advice}"
            )
        replaced = raw.decode("utf-8", "replace")
        count = replaced.count("\ufffd") - raw.count("\ufffd".encode())
        return self._treat(_Fault(message, replaced, count), self.left_out)

    def without_half_pairs(self, text: str, origin: str) -> str | None:
        """Returns a text without lone surrogates; None: its document is to be skipped.

        Raises:
          UserError: it has one and is to be refused.
        """
        found = _HALF_PAIR.search(text)
        if not found:
            return text
        message = (
            f"{origin}: the text holds half of a surrogate pair (\\u{ord(found[0]):x}), which is "
            f"no character; mend it or leave it out{self._advice}"
        )
        replaced, count = _HALF_PAIR.subn("\ufffd", text)
        return self._treat(_Fault(message, replaced, count), self.left_out)

    def count_skipped(self) -> None:
        """Counts a document that is skipped."""
        self.left_out[SKIPPED] += 1
